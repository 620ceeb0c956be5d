"""Feedback on text from outside the policy: language models' and functions'.

`labelers` is the interface: a record of functions that read a prompt's labels or write
a text. Behind it stand a model in this process (`in_process`) and any OpenAI-compatible
server (`endpoint`); `ledger` keeps their calls, so that nothing is paid for twice, and
`pairings` which of them are the two orders of one pair. `prompts` are texts that ask,
`judging` asks which of two is better or how good one is, and `labeling` says what the
answers mean. `function` is for rewards that users write in Python.
"""
