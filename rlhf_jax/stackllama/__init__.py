"""StackLLaMA: from pairs of answers to a policy, stage by stage, and measured."""
