import torch

from pipeline.optimizing import Average


def test_ptx_adds_gamma_times_the_pretraining_gradient(make_trainer, change, ptx_text):
    text = ptx_text(rows=4)
    section = change(ptx_coef=3.0, ptx_ratio=1.0)
    trainer = make_trainer(section, ptx=text)
    trainer.ptx.add_gradient(trainer.policy, 0, Average())
    added = [weight.grad.clone() for weight in trainer.policy.parameters()]
    trainer.policy.zero_grad()
    loss = trainer.policy(input_ids=text, labels=text).loss
    (3.0 * loss).backward()
    for computed, weight in zip(added, trainer.policy.parameters(), strict=True):
        # Transformers' own loss is computed in float32.
        assert torch.allclose(computed, weight.grad, atol=1e-5)


def test_ptx_gradients_accumulate_into_the_same_step(make_trainer, change, ptx_text):
    text = ptx_text(rows=4)
    trainer = make_trainer(change(ptx_coef=3.0, ptx_ratio=1.0), ptx=text)
    first = trainer.policy.parameters().__next__()
    first.grad = torch.ones_like(first)
    trainer.ptx.add_gradient(trainer.policy, 0, Average())
    both = first.grad.clone()
    trainer.policy.zero_grad()
    trainer.ptx.add_gradient(trainer.policy, 0, Average())
    assert torch.allclose(both, first.grad + 1, atol=1e-12)


def test_an_epoch_of_steps_reads_every_sequence_once(make_trainer, change, ptx_text):
    text = ptx_text(rows=16)
    trainer = make_trainer(change(ptx_coef=3.0, ptx_ratio=1.0), ptx=text)
    per_step = trainer.section.ptx_minibatch_size
    steps = len(text) // per_step
    assert steps > 1
    for step in range(steps):
        trainer.ptx.add_gradient(trainer.policy, step, Average())
    added = [weight.grad.clone() / steps for weight in trainer.policy.parameters()]
    trainer.policy.zero_grad()
    logprobs = trainer.policy(input_ids=text).logits[:, :-1].log_softmax(-1)
    (-3.0 * logprobs.gather(2, text[:, 1:, None]).mean()).backward()
    for computed, weight in zip(added, trainer.policy.parameters(), strict=True):
        # HF's RMSNorm goes back through float32, in batches of other sizes.
        assert torch.allclose(computed, weight.grad, rtol=0, atol=5e-6)


def test_pretraining_text_becomes_likelier_with_ptx_only(make_trainer, change, ptx_text):
    text = ptx_text()

    def nll(trainer):
        with torch.no_grad():
            return float(trainer.policy(input_ids=text, labels=text).loss)

    plain = make_trainer(policy_seed=0)
    mixed = make_trainer(change(ptx_coef=10.0, ptx_ratio=2.0), ptx=text)
    before = nll(plain)
    for _ in range(4):
        plain.step()
        mixed.step()
    assert nll(mixed) < before - 0.5
    assert nll(mixed) < nll(plain) - 0.5
