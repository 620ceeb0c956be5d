"""Where scores come from when they are not JAX: functions of the user."""
