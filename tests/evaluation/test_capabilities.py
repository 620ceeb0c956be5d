import numpy as np

from rlhf_jax.evaluation import capabilities


def test_text_is_compared_up_to_white_space_and_case():
    completions = [" The  Film\n", "film", "no"]
    answers = ["the film", ("movie", "Film"), "yes"]
    assert capabilities.same_text(completions, answers).tolist() == [True, True, False]


def test_answer_logps_ignore_padding():
    logps = np.array([[-1.0, -2.0, np.nan], [-3.0, np.inf, np.nan]])
    mask = np.array([[1, 1, 0], [1, 0, 0]])
    assert capabilities.answer_logps(logps, mask).tolist() == [-3.0, -3.0]
