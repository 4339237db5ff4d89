"""Mutants of rollouts: ends, columns, temperature, scores, rewards as PPO shapes them."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

PPO = "pipeline/ppo.py"
EPISODES = "pipeline/episodes.py"
ROLLOUT = "pipeline/rollout.py"
SAMPLING = "pipeline/sampling.py"
FORWARD = "pipeline/forward.py"
REWARDS = "pipeline/rewards.py"
MODELS = "pipeline/models.py"

DEFINED = "test_ppo.py::test_a_rollout_is_what_its_definitions_make_of_the_answers"
ENDS = "test_ppo.py::test_scores_are_the_reward_models_at_the_last_token_less_offset_and_penalty"
END_ID = "test_ppo.py::test_a_missing_end_is_known_by_the_token_that_sampling_stops_at"
FORCED = "test_ppo.py::test_rollout_logprobs_are_teacher_forced_logprobs"
VALUE_START = "test_models.py::test_a_value_model_begins_as_the_offset_reward_model"

ROLLOUTS = (
    Mutant(
        "missing end: another token's id",
        EPISODES,
        "row[-1] == self.formatter.end_id",
        "row[-1] == self.formatter.tokenizer.eos_token_id",
        "Where the chat template ends turns with a token of its own, every end is missing.",
        (END_ID,),
    ),
    Mutant(
        "processes: each computes every row",
        EPISODES,
        "share = torch.arange(workers.rank, len(episodes), workers.world_size)",
        "share = torch.arange(len(episodes))",
        "Scores, values and log-probabilities are added up over the processes.",
        ("test_episodes.py::test_spread_fills_every_row_and_leaves_padding_zero",),
    ),
    Mutant(
        "end: not trained on",
        ROLLOUT,
        "mask[i, real] = True",
        "mask[i, real.start : real.stop - 1] = True",
        "The end token has no reward and no gradient: completions never stop.",
        ("test_rollout.py",),
    ),
    Mutant(
        "completions: not in one column",
        ROLLOUT,
        "real = slice(prompt_width - len(prompt), prompt_width + len(completion))",
        "real = slice(0, len(prompt) + len(completion))",
        "Short prompts' completions are read from the wrong columns.",
        ("test_rollout.py",),
    ),
    Mutant(
        "completions: trimmed by a token",
        ROLLOUT,
        "slice(first, prompt + last)",
        "slice(first, prompt + last - 1)",
        "The longest completion of a micro-batch loses its end.",
        ("test_rollout.py",),
    ),
    Mutant(
        "end: left out of the completion",
        SAMPLING,
        "            finished[row].append(token)\n",
        "            if token != formatter.end_id:\n                finished[row].append(token)\n",
        "No completion seems to end, and ending is never learned.",
        ("test_sampling.py::test_a_completion_ends_at_its_first_end_token",),
    ),
    Mutant(
        "log-probabilities: off by a column",
        FORWARD,
        "logits_to_keep=time + 1).logits[:, :-1]",
        "logits_to_keep=time).logits",
        "Each token is judged by the distribution of the next.",
        (FORCED,),
    ),
    Mutant(
        "log-probabilities: not at the temperature",
        FORWARD,
        "    return logits / temperature\n",
        "    return logits\n",
        "The ratio is not that of the distribution that was sampled.",
        (FORCED,),
    ),
    Mutant(
        "attention: to padding too",
        FORWARD,
        "episodes.attention_mask.long()",
        "episodes.attention_mask.long().fill_(1)",
        "Padding changes every number.",
        (FORCED,),
    ),
    Mutant(
        "values: off by a column",
        FORWARD,
        "logits[:, -time - 1 : -1, 0]",
        "logits[:, -time:, 0]",
        "Values have seen the token that they judge.",
        ("test_ppo.py::test_the_value_model_starts_as_the_reward_model",),
    ),
    Mutant(
        "score offset: sign",
        REWARDS,
        "raw - score_offset(self.model)",
        "raw + score_offset(self.model)",
        "Demonstrations score twice the offset instead of 0.",
        ("test_rewards.py::test_a_model_of_the_policys_tokens_reads_ids_and_subtracts_its_offset",),
    ),
    Mutant(
        "score: read at the last column",
        MODELS,
        "hidden[rows, last_token(mask)]",
        "hidden[:, -1]",
        "Completions that end early are scored at padding.",
        ("test_models.py::test_scores_depend_on_neither_padding_nor_neighbours",),
    ),
    Mutant(
        "value start: offset's sign",
        MODELS,
        "model.score.bias.fill_(-score_offset(reward_model))",
        "model.score.bias.fill_(score_offset(reward_model))",
        "Values begin off by twice the offset.",
        (VALUE_START,),
    ),
    Mutant(
        "value start: without the head",
        MODELS,
        "        model.score.weight.copy_(reward_model.score.weight)\n",
        "",
        "Values begin equal everywhere.",
        (VALUE_START,),
    ),
    Mutant(
        "KL: reference and policy swapped",
        PPO,
        "shape_rewards(scaled, logprobs, judged.ref_logprobs, mask",
        "shape_rewards(scaled, judged.ref_logprobs, logprobs, mask",
        "Leaving the reference is rewarded.",
        (DEFINED,),
    ),
    Mutant(
        "adaptive KL: not in the rewards",
        PPO,
        "judged.ref_logprobs, mask, self.kl.coef)",
        "judged.ref_logprobs, mask, section.kl_coef)",
        "The steered coefficient steers nothing.",
        (DEFINED,),
    ),
    Mutant(
        "score scaling: not in the rewards",
        PPO,
        "scaled = self.scaler.scale(judged.scores)",
        "scaled = judged.scores",
        "score_scaling and score_clip do nothing.",
        (DEFINED,),
    ),
    Mutant(
        "GAE: gamma and lambda swapped",
        PPO,
        "rewards, judged.values, mask, section.gamma, section.gae_lambda",
        "rewards, judged.values, mask, section.gae_lambda, section.gamma",
        "Returns are discounted by lambda.",
        (DEFINED,),
    ),
    Mutant(
        "advantages: whitened without their mean",
        PPO,
        "advantages = whiten(advantages, mask)",
        "advantages = whiten(advantages, mask, shift_mean=False)",
        "Advantages favour all tokens, or none.",
        (DEFINED,),
    ),
    Mutant(
        "rewards: whitened with their mean",
        PPO,
        "whiten(rewards, mask, shift_mean=False)",
        "whiten(rewards, mask)",
        "Returns lose the level that the values learn.",
        (DEFINED,),
    ),
    Mutant(
        "missing end: inverted",
        PPO,
        "torch.where(episodes.ended, scores, scores - section.missing_eos_penalty)",
        "torch.where(episodes.ended, scores - section.missing_eos_penalty, scores)",
        "Ending is penalised: completions never stop.",
        (ENDS,),
    ),
    Mutant(
        "missing end: penalty for all",
        PPO,
        "torch.where(episodes.ended, scores, scores - section.missing_eos_penalty)",
        "scores - section.missing_eos_penalty",
        "Nothing teaches the policy to end.",
        (ENDS,),
    ),
    Mutant(
        "missing end: score of those that ended",
        PPO,
        "torch.where(episodes.ended, scores, section.missing_eos_score)",
        "torch.where(~episodes.ended, scores, section.missing_eos_score)",
        "Ending is penalised: completions never stop.",
        (END_ID,),
    ),
    Mutant(
        "prompts: the first ones again",
        PPO,
        "self.prompt_cursor.take(self.iteration * size, size)",
        "self.prompt_cursor.take(0, size)",
        "One batch of prompts is the whole training.",
        ("test_ppo.py::test_prompts_do_not_repeat_within_an_epoch",),
    ),
)
