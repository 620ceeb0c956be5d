"""Networks: `config` describes, `decoder` computes, `heads` read numbers off it."""
