"""Mutants of the update: means over tokens, processes, ptx, epochs, the average."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

PPO = "pipeline/ppo.py"
CURSORS = "pipeline/cursors.py"
PTX = "pipeline/ptx.py"
ACTOR_CRITIC = "pipeline/actor_critic.py"
DISTRIBUTED = "pipeline/distributed.py"

MEAN = "test_ppo.py::test_a_step_takes_the_mean_over_tokens_however_they_are_shared_out"
MICRO = "test_ppo.py::test_micro_batches_change_no_figure_and_no_weight"
ENTROPY = "test_ppo.py::test_the_entropy_bonus_adds_the_gradient_of_the_entropy"
ENGINE = "test_ppo.py::test_another_engines_tokens_are_weighted_in_the_policy_loss_alone"
STEPS = "test_ppo.py::test_every_epoch_shuffles_all_episodes_and_every_step_has_its_number"
PTX_SCALE = "test_ptx.py::test_ptx_adds_gamma_times_the_pretraining_gradient"
TWO = "test_distributed.py::test_two_processes_have_the_gradient_of_one"
PADDING = "test_ppo.py::test_what_stands_in_the_padding_changes_no_loss"

UPDATES = (
    Mutant(
        "epochs: stopped while close",
        PPO,
        '["policy/approxkl"] > limit',
        '["policy/approxkl"] < limit',
        "Epochs stop where the policy stands still, and go on where it runs away.",
        ("test_ppo.py::test_epochs_stop_once_the_policy_has_moved_too_far",),
    ),
    Mutant(
        "epochs: one order for all",
        PPO,
        'permutation(len(rollout), self.seed, "minibatches", self.iteration, epoch)',
        "torch.arange(len(rollout))",
        "Minibatches are the same in every epoch.",
        (STEPS,),
    ),
    Mutant(
        "steps: numbered anew each iteration",
        PPO,
        "step = self.iteration * section.num_ppo_epochs * section.minibatches",
        "step = 0",
        "Each iteration repeats the first one's pretraining text and dropout.",
        (STEPS,),
    ),
    Mutant(
        "minibatch: mean over rows",
        PPO,
        "tokens, workers = minibatch.token_count, self.workers",
        "tokens, workers = len(minibatch), self.workers",
        "The learning rate grows with the completions' length.",
        (MEAN,),
    ),
    Mutant(
        "minibatch: mean over a micro-batch",
        PPO,
        "(loss * workers.world_size / tokens).backward()",
        "(loss * workers.world_size / part.token_count).backward()",
        "Micro-batches change the gradient.",
        (MICRO,),
    ),
    Mutant(
        "processes: PPO's gradient averaged",
        PPO,
        "(loss * workers.world_size / tokens).backward()",
        "(loss / tokens).backward()",
        "Two processes halve PPO's gradient.",
        (MEAN,),
    ),
    Mutant(
        "processes: each trains on every row",
        PPO,
        "share = torch.arange(workers.rank, len(minibatch), workers.world_size)",
        "share = torch.arange(len(minibatch))",
        "Two processes double PPO's gradient.",
        (MEAN,),
    ),
    Mutant(
        "value loss: of advantages",
        PPO,
        "clipped_value_loss(values, part.values, part.returns,",
        "clipped_value_loss(values, part.values, part.advantages,",
        "The value model learns advantages.",
        (MEAN,),
    ),
    Mutant(
        "policy loss: padding counts",
        PPO,
        "loss = masked_sum(policy_losses, mask) + value_loss",
        "loss = policy_losses.sum() + value_loss",
        "Padding has a gradient.",
        (PADDING,),
    ),
    Mutant(
        "value loss: padding counts",
        PPO,
        "self.trained.value_coef * masked_sum(value_losses, mask)",
        "self.trained.value_coef * value_losses.sum()",
        "The value model learns 0 at padding.",
        (PADDING,),
    ),
    Mutant(
        "entropy bonus: sign",
        PPO,
        "loss = loss - section.entropy_coef",
        "loss = loss + section.entropy_coef",
        "Exploration is punished.",
        (ENTROPY,),
    ),
    Mutant(
        "entropy bonus: of padding too",
        PPO,
        "masked_sum(token_entropy(logits), mask)",
        "token_entropy(logits).sum()",
        "The bonus grows with the padding.",
        (PADDING,),
    ),
    Mutant(
        "importance weights: not in the loss",
        PPO,
        "            policy_losses = policy_losses * part.importance\n",
        "            pass\n",
        "Another engine's samples are taken for the policy's.",
        (ENGINE,),
    ),
    Mutant(
        "average: direction",
        PPO,
        "1 - self.section.ema_decay",
        "self.section.ema_decay",
        "The average is nearly the last policy.",
        ("test_ppo.py::test_the_average_follows_the_policy",),
    ),
    Mutant(
        "prompts: one order for every epoch",
        CURSORS,
        "permutation(self.size, *self._key, epoch)",
        "permutation(self.size, *self._key)",
        "Epochs repeat the same batches.",
        ("test_cursors.py",),
    ),
    Mutant(
        "ptx: coefficient missing",
        PTX,
        "(section.ptx_coef * loss *",
        "(loss *",
        "ptx_coef does nothing.",
        (PTX_SCALE,),
    ),
    Mutant(
        "ptx: sign",
        PTX,
        "loss = -token_logprobs(logits",
        "loss = token_logprobs(logits",
        "Pretraining text is unlearned.",
        (PTX_SCALE,),
    ),
    Mutant(
        "ptx: mean over all columns",
        PTX,
        "tokens = text[:, 1:].numel()",
        "tokens = text.numel()",
        "Short sequences weigh less than gamma.",
        (PTX_SCALE,),
    ),
    Mutant(
        "ptx: mean over a micro-batch",
        PTX,
        "workers.world_size / tokens).backward()",
        "workers.world_size / part[:, 1:].numel()).backward()",
        "Micro-batches change the gradient.",
        (MICRO,),
    ),
    Mutant(
        "ptx: each token from itself",
        PTX,
        "logits[:, :-1]\n",
        "logits[:, 1:]\n",
        "The policy learns to repeat the last token.",
        (PTX_SCALE,),
    ),
    Mutant(
        "ptx: PPO's gradient dropped",
        PTX,
        "        add_gradients(policy, ppo_gradients)\n",
        "",
        "PPO does nothing.",
        ("test_ptx.py::test_ptx_gradients_accumulate_into_the_same_step",),
    ),
    Mutant(
        "ptx: the same text each step",
        PTX,
        "self.cursor.take(step * count, count)",
        "self.cursor.take(0, count)",
        "A handful of sequences is learned by heart.",
        ("test_ptx.py::test_an_epoch_of_steps_reads_every_sequence_once",),
    ),
    Mutant(
        "processes: the ptx gradient averaged",
        PTX,
        "loss * workers.world_size / tokens",
        "loss / tokens",
        "Two processes halve the pretraining gradient.",
        (MEAN,),
    ),
    Mutant(
        "processes: each reads all the text",
        PTX,
        "text[workers.rank :: workers.world_size].split(",
        "text.split(",
        "Two processes double the pretraining gradient.",
        (MEAN,),
    ),
    Mutant(
        "processes: gradients of adapters summed",
        DISTRIBUTED,
        "            gradient /= self.world_size\n",
        "",
        "Two processes double the gradient of models on one backbone.",
        (f"{TWO}[both]",),
    ),
    Mutant(
        "processes: gradients of adapters stay apart",
        DISTRIBUTED,
        "            torch.distributed.all_reduce(gradient)\n",
        "",
        "Each process trains adapters of its own, and rank 0 saves its.",
        (f"{TWO}[both]",),
    ),
    Mutant(
        "processes: gradients of PPO's adapters not exchanged",
        ACTOR_CRITIC,
        "                self.workers.average_gradients(model)\n",
        "                pass\n",
        "Each process trains adapters of its own on its share of the episodes.",
        (f"{TWO}[both]",),
    ),
    Mutant(
        "processes: ptx gradients of adapters not exchanged",
        PTX,
        "        workers.average_gradients(policy)\n",
        "",
        "Each process trains adapters of its own on its share of the text.",
        (f"{TWO}[text]",),
    ),
    Mutant(
        "processes: exchanged before the last pass",
        DISTRIBUTED,
        "contextlib.nullcontext() if last else",
        "contextlib.nullcontext() if not last else",
        "What accumulates after the exchange differs between processes.",
        (f"{TWO}[wrapped]",),
    ),
)
