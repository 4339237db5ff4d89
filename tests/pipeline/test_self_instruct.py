import json
import random

import pytest

from pipeline.config.run import resolve
from pipeline.config.sft import BootstrapSection
from pipeline.config.source import Source
from pipeline.data import read_demonstrations
from pipeline.errors import DataError
from pipeline.models import save_model
from pipeline.records import write_jsonl
from pipeline.runs import Manifest, open_stage
from pipeline.sampling import SampledText
from pipeline.self_instruct import BOOTSTRAP, ROUNDS, bootstrap_demonstrations, read_bootstrap
from pipeline.task_screen import REASONS, Screen, find_fault, find_similarity, split_words
from pipeline.task_text import Task, compose_request, parse_tasks
from stages.sft import run

SEEDS = [
    ("Name the home of the animal.", "fox", "The forest."),
    ("Say hello to Mia in a kind way.", "", "Hello Mia, how are you?"),
    ("List three animals with four legs.", "", "Cat, dog, fox."),
    ("Turn the sentence into a question.", "Tom lives in the town.", "Where does Tom live?"),
    ("Count the dogs in this text.", "Tom has 12 red dogs.", "12"),
]
GOOD = Task("Give the boat a better name.", "the blue boat", "Sea star")
PROVENANCE = {"stage": "pretrain", "model_hash": "ab12"}
VERBS = ["Write", "Name", "Sort", "Find", "Tell", "Explain", "Guess", "Repeat", "Change", "Cut"]
NOUNS = ["boats", "rivers", "towns", "trees", "songs", "kings", "shoes", "clocks", "birds"]
PLACES = ["Rome", "winter", "spring", "school", "dreams", "books", "markets", "rain"]


def write(tasks, first=9):
    """Return tasks as a model continues the list."""
    return "\n\n".join(
        f"Task {n}:\nInstruction: {task.instruction}\nInput: {task.input or '<noinput>'}\n"
        f"Output: {task.output}"
        for n, task in enumerate(tasks, start=first)
    )


def invent(draw):
    verb, noun, other, place = (draw.choice(words) for words in (VERBS, NOUNS, NOUNS, PLACES))
    return Task(
        f"{verb} {noun} and {other} about {place} today.", draw.choice(["", noun]), f"{place}!"
    )


class Script:
    """Write tasks that depend on the key of each prompt alone, as the real sampler does."""

    def __init__(self, per_prompt=3, stop_before=None):
        self.calls = []
        self.per_prompt = per_prompt
        self.stop_before = stop_before

    def __call__(
        self, _model, _formatter, prompts, _decoding, *, seed, step, sample_index, batch_size
    ):
        if step == self.stop_before:
            raise KeyboardInterrupt
        self.calls.append((step, [prompt.id for prompt in prompts]))
        assert batch_size == len(prompts)
        return [
            self.answer(random.Random(f"{seed}:{step}:{prompt.id}:{index}"))
            for prompt, index in zip(prompts, sample_index, strict=True)
        ]

    def answer(self, draw):
        text = write([invent(draw) for _ in range(self.per_prompt)])
        return SampledText([], text, draw.choice(["eos", "length"]))


def answering(*texts, finish_reason="eos"):
    """Return a sampler that gives every prompt of a round the same text."""

    def sample(_model, _formatter, prompts, _decoding, *, step, **_options):
        return [SampledText([], texts[step % len(texts)], finish_reason) for _ in prompts]

    return sample


@pytest.fixture
def seeds_file(tmp_path):
    path = tmp_path / "seeds.jsonl"
    write_jsonl(path, [dict(zip(Task._fields, seed, strict=True)) for seed in SEEDS])
    return path


@pytest.fixture
def make_section(seeds_file):
    def make(**settings):
        defaults = {"count": 40, "max_rounds": 30, "prompts_per_round": 3, "max_new_tokens": 16}
        return BootstrapSection(seeds=[Source(path=str(seeds_file))], **{**defaults, **settings})

    return make


@pytest.fixture(scope="session")
def writer(make_policy):
    return make_policy(context=1024)


@pytest.fixture
def bootstrap(make_section, writer, tiny_formatter, tmp_path):
    def run(name="run", sample=None, seed=5, max_length=200, model=writer, **settings):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return bootstrap_demonstrations(
            make_section(**settings),
            model,
            tiny_formatter,
            folder=folder,
            provenance=PROVENANCE,
            seed=seed,
            max_length=max_length,
            **({"sample": sample} if sample else {}),
        )

    return run


@pytest.fixture
def rows_of(tmp_path):
    def read(name="run"):
        text = (tmp_path / name / BOOTSTRAP).read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    return read


def test_what_is_written_in_the_form_of_the_request_is_read_back():
    tasks = [Task(*seed) for seed in SEEDS]
    assert parse_tasks(write(tasks), cut=False) == tasks
    (turn,) = compose_request(tasks).messages
    shown, _, following = turn["content"].rpartition("\n\n")
    assert parse_tasks(shown, cut=False) == tasks
    assert "Task 6" in following


@pytest.mark.parametrize(
    "text",
    [
        "Instruction: Name it.\nInput: a cat\nOutput: Tom\n\nTask 10:\n",
        "Sure, here they are!\n\nTask 9: Instruction: Name it.\nInput: a cat\nOutput: Tom",
        "Task 9:\nInstructions: Name it.\nInputs: a cat\nOutputs: Tom",
        "Task 9:\nInstruction: Name it.\nInput: a cat\nOutput: Tom\n\n###",
        "**Task 9:**\n\n**Instruction:** Name\n it.\n**Input:** a cat\n**Output:** Tom\n\n---",
        "### Task 9. Instruction: Name it.\n## Input:\na cat\n\n## Output:\n\nTom",
    ],
)
def test_forms_that_models_use_are_read_alike(text: str):
    assert parse_tasks(text, cut=False) == [Task("Name it.", "a cat", "Tom")]


def test_an_input_may_be_missing_or_said_to_be_none():
    for given in ("", "Input:\n", "Input: <noinput>\n", "Input: <NoInput>\n"):
        text = f"Instruction: Say hello.\n{given}Output: Hello.\nHello again."
        assert parse_tasks(text, cut=False) == [Task("Say hello.", "", "Hello.\nHello again.")]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Sure, here they are!",
        "Name it.\nInput: a cat\nOutput: Tom",
        "Instruction: Name it.\nInput: a cat",
        "Instruction: Name it.\nOutput: Tom\nInput: a cat",
        "Instruction: Name it.\nInput: a cat\nInput: a dog\nOutput: Tom",
        "Instruction: Name it.\nInput: a cat\nOutput: Tom\nOutput: Tim",
        "Instruction: Name it. Input: a cat Output: Tom",
    ],
)
def test_another_form_is_malformed(text: str):
    assert parse_tasks(text, cut=False) == ["malformed"]


def test_a_malformed_task_spoils_no_other():
    text = f"Instruction: Hide.\n\n{write([GOOD])}\n\nInstruction: Run.\n"
    assert parse_tasks(text, cut=False) == ["malformed", GOOD, "malformed"]


def test_the_last_task_of_a_cut_text_is_dropped():
    text = write([GOOD, GOOD])
    assert parse_tasks(text, cut=True) == [GOOD, "cut"]
    assert parse_tasks(write([GOOD]), cut=True) == ["cut"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"instruction": "Name the boat."}, "too_short"),
        ({"instruction": "Name the boat now."}, None),
        ({"instruction": " ".join(["name"] * 20)}, None),
        ({"instruction": " ".join(["name"] * 21)}, "too_long"),
        ({"instruction": "Describe the image of a boat."}, "unsuitable"),
        ({"instruction": "Open these Files and read them."}, "unsuitable"),
        ({"instruction": "Please go to the town now."}, "unsuitable"),
        ({"instruction": "Write a program that counts boats."}, "unsuitable"),
        ({"instruction": "- give the boat a name"}, "unsuitable"),
        ({"instruction": "Say the filename of a profile."}, None),
        ({"output": ""}, "empty_output"),
        ({"output": " \u200b\n"}, "empty_output"),
        ({"output": "The  blue\nBOAT"}, "repeats_input"),
        ({"output": GOOD.instruction}, "repeats_input"),
        ({"output": "The name is:"}, "incomplete"),
        ({"input": "The boat:"}, "incomplete"),
        ({"input": "the \x00 boat"}, "unreadable"),
        ({"input": "\u200b"}, "unreadable"),
        ({"instruction": "写一首关于春天的诗。"}, None),
        ({"instruction": "Küçük bir köpek için isim öner."}, None),
    ],
)
def test_each_filter(make_section, change: dict[str, str], reason: str | None):
    assert find_fault(GOOD._replace(**change), make_section(max_words=20)) == reason


def test_similarity_is_rouge_l():
    # lm_eval's own dependency, and far slower than ours.
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    draw = random.Random(0)
    texts = [seed[0] for seed in SEEDS]
    texts += [" ".join(draw.choices("abcdef", k=draw.randrange(1, 40))) for _ in range(40)]
    for text in texts:
        for other in texts:
            expected = scorer.score(other, text)["rougeL"].fmeasure
            found = find_similarity(split_words(text), [split_words(other)])
            assert found == pytest.approx(expected, abs=1e-12)
    every = [split_words(other) for other in texts[1:]]
    best = scorer.score_multi(texts[1:], texts[0])["rougeL"].fmeasure
    assert find_similarity(split_words(texts[0]), every) == pytest.approx(best, abs=1e-12)
    assert find_similarity(["a"], []) == find_similarity([], [["a"]]) == 0


def test_an_instruction_above_the_threshold_is_similar(make_section, tiny_formatter):
    # Five of six words in order, of six: 2 * 5 / 12.
    near = Task("Name the place of the animal.", "cat", "Rome.")
    for threshold, reason in ((0.83, "similar"), (0.84, None)):
        seeds = [Task(*seed) for seed in SEEDS]
        screen = Screen(make_section(max_similarity=threshold), tiny_formatter, 200, seeds)
        found, similarity = screen.judge(near)
        assert (found, similarity) == (reason, pytest.approx(5 / 6))


def test_tasks_are_held_against_those_admitted_before(make_section, tiny_formatter):
    screen = Screen(make_section(), tiny_formatter, 200, [])
    assert screen.judge(GOOD)[0] is None
    screen.admit(GOOD)
    assert screen.judge(GOOD)[0] == "duplicate"
    assert screen.judge(GOOD._replace(output="Other"))[0] == "duplicate"
    assert screen.judge(GOOD._replace(input="a red boat"))[0] == "similar"


def test_the_same_prompt_is_a_duplicate_at_any_threshold(make_section, tiny_formatter):
    seeds = [Task(*seed) for seed in SEEDS]
    screen = Screen(make_section(max_similarity=1.0), tiny_formatter, 200, seeds)
    again = Task("name the HOME  of the animal.", "fox", "A den.")
    assert screen.judge(again)[0] == "duplicate"
    assert screen.judge(again._replace(input="cat")) == (None, 1.0)


def test_a_task_longer_than_the_fine_tuning_takes_is_dropped(make_section, tiny_formatter):
    messages = [
        {"role": "user", "content": f"{GOOD.instruction}\n\n{GOOD.input}"},
        {"role": "assistant", "content": GOOD.output},
    ]
    size = len(tiny_formatter.conversation(messages).ids)
    for limit, reason in ((size, None), (size - 1, "over_max_length")):
        screen = Screen(make_section(), tiny_formatter, limit, [])
        assert screen.judge(GOOD)[0] == reason


def test_stops_at_the_count_and_accounts_for_every_candidate(bootstrap, rows_of, tmp_path):
    kept, figures = bootstrap(sample=Script(per_prompt=6), count=40)
    assert len(kept) == figures["kept"] == len(rows_of()) == 40
    assert read_bootstrap(tmp_path / "run") == kept
    rejected = {reason: figures[f"rejected_{reason}"] for reason in REASONS}
    assert figures["candidates"] == figures["rounds"] * 3 * 6 == 40 + sum(rejected.values())
    assert min(rejected["similar"], rejected["cut"]) > 0


def test_kept_tasks_differ_from_one_another_and_from_the_seeds(bootstrap):
    kept, _ = bootstrap(sample=Script())
    texts = [seed[0] for seed in SEEDS]
    texts += [one.prompt.messages[0]["content"].partition("\n\n")[0] for one in kept]
    words = [split_words(text) for text in texts]
    for at in range(len(SEEDS), len(words)):
        assert find_similarity(words[at], words[:at]) <= 0.7


def test_the_seed_decides_all(bootstrap, tmp_path):
    bootstrap("first", Script())
    bootstrap("again", Script())
    bootstrap("other", Script(), seed=6)
    first, again, other = (
        [(tmp_path / name / file).read_bytes() for file in (BOOTSTRAP, ROUNDS)]
        for name in ("first", "again", "other")
    )
    assert first == again
    assert first[0] != other[0]


def test_each_prompt_of_each_round_shows_other_examples(bootstrap):
    script = Script(per_prompt=0)
    with pytest.raises(DataError, match="none of 15 in 5 rounds"):
        bootstrap(sample=script, max_rounds=5, examples=4)
    assert [step for step, _ in script.calls] == [0, 1, 2, 3, 4]
    assert len({prompt for _, prompts in script.calls for prompt in prompts}) == 15


@pytest.mark.parametrize("torn", [False, True])
def test_a_cut_bootstrap_goes_on_as_if_it_had_not_been(bootstrap, tmp_path, torn: bool):
    whole = Script()
    expected = bootstrap("whole", whole)
    assert len(whole.calls) > 3
    with pytest.raises(KeyboardInterrupt):
        bootstrap("cut", Script(stop_before=2))
    if torn:
        with (tmp_path / "cut" / ROUNDS).open("a", encoding="utf-8") as out:
            out.write('{"round": 2, "rejected": {"cut"')
    resumed = Script()
    assert bootstrap("cut", resumed) == expected
    assert resumed.calls == whole.calls[2:]
    for file in (BOOTSTRAP, ROUNDS):
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_a_finished_bootstrap_samples_nothing_more(bootstrap):
    expected = bootstrap(sample=Script())
    again = Script()
    assert bootstrap(sample=again) == expected
    assert again.calls == []


def test_each_row_says_how_it_came_about(bootstrap, rows_of, seeds_file):
    bootstrap(sample=Script(), examples=8, temperature=0.5)
    seeds = {one.prompt.id for one in read_demonstrations([Source(path=str(seeds_file))], 0)}
    earlier: dict[int, set[str]] = {}
    for row in rows_of():
        made = row["provenance"]
        assert made.items() >= {**PROVENANCE, "seed": 5}.items()
        assert (made["sampling"]["temperature"], made["sampling"]["max_new_tokens"]) == (0.5, 16)
        assert 0 <= made["max_similarity"] <= 0.7
        assert made["sample_index"] in range(3)
        earlier.setdefault(made["round"], set()).add(row["id"])
        before = set().union(*(ids for at, ids in earlier.items() if at < made["round"]))
        shown = set(made["examples"])
        assert len(shown) == len(made["examples"])
        # All five seeds, and two of the kept ones as soon as there are so many.
        assert shown & seeds == seeds
        assert shown - seeds <= before
        assert len(shown - seeds) == min(2, len(before))
    assert len(earlier) > 2


def test_what_was_kept_loads_as_any_other_source(bootstrap, tmp_path):
    kept, _ = bootstrap(sample=answering(write([GOOD])), count=1)
    source = Source(path=str(tmp_path / "run" / BOOTSTRAP))
    assert read_demonstrations([source], 0) == kept
    assert kept[0].prompt.messages[0]["content"] == f"{GOOD.instruction}\n\n{GOOD.input}"
    assert kept[0].completion == GOOD.output


def test_tasks_beyond_the_count_are_counted_as_surplus(bootstrap):
    other = Task("Explain why birds sing at night.", "", "They call.")
    _, figures = bootstrap(sample=answering(write([GOOD, other])), count=1, prompts_per_round=1)
    assert (figures["rounds"], figures["kept"], figures["rejected_surplus"]) == (1, 1, 1)


def test_says_how_many_were_kept_when_the_rounds_run_out(bootstrap, caplog):
    _, figures = bootstrap(sample=answering(write([GOOD])), count=7, max_rounds=2)
    assert (figures["rounds"], figures["kept"], figures["rejected_duplicate"]) == (2, 1, 5)
    assert "bootstrap kept 1 of 7 tasks in 2 rounds" in caplog.text


def test_examples_that_do_not_fit_are_not_shown(bootstrap, make_policy, rows_of):
    good = answering(write([GOOD]))
    bootstrap("wide", good, count=1)
    bootstrap("narrow", good, count=1, model=make_policy(context=310))
    wide, narrow = (rows_of(name)[0]["provenance"]["examples"] for name in ("wide", "narrow"))
    assert 0 < len(narrow) < len(wide) == len(SEEDS)


def test_a_context_without_room_for_one_example_is_refused(bootstrap, make_policy):
    with pytest.raises(DataError, match=r"bootstrap\.seeds must hold .* lower max_new_tokens"):
        bootstrap(sample=Script(), model=make_policy(context=64))


def test_seeds_must_be_single_turns(bootstrap, seeds_file):
    turns = [
        {"role": role, "content": text}
        for role, text in (("system", "Be kind."), ("user", "Hello"), ("assistant", "Hi"))
    ]
    write_jsonl(seeds_file, [{"messages": turns}])
    with pytest.raises(DataError, match="one user's turn, got 2 turns"):
        bootstrap(sample=Script())


def test_nothing_kept_is_an_error_that_says_why(bootstrap):
    texts = ("Sure!", write([GOOD._replace(output="")]))
    for _ in range(2):  # the second time from the log
        with pytest.raises(DataError, match=r"none of 12 in 4 rounds \(6 malformed, 6 empty_outp"):
            bootstrap(sample=answering(*texts), max_rounds=4)


def test_a_real_model_of_random_weights_keeps_nothing(bootstrap, tmp_path):
    with pytest.raises(DataError, match="must keep at least one task, got none of") as caught:
        bootstrap(max_rounds=2, prompts_per_round=2, max_new_tokens=8)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / BOOTSTRAP).exists()
    lines = (tmp_path / "run" / ROUNDS).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["round"] for line in lines] == [0, 1]


@pytest.fixture
def make_run(seeds_file, tmp_path, writer, tiny_tokenizer):
    def make(**settings):
        data = tmp_path / "data.jsonl"
        rows = [{"prompt": f"Where does Tom live, {n}?", "completion": "Rome."} for n in range(4)]
        write_jsonl(data, rows)
        bootstrap = {"prompts_per_round": 2, "max_new_tokens": 8, "max_rounds": 2, **settings}
        sft = {
            "data": [str(data)],
            "validation": [str(data)],
            "epochs": 1,
            "batch_size": 2,
            "micro_batch_size": 2,
            "max_length": 64,
            "precision": "float64",
            "bootstrap": {"seeds": [str(seeds_file)], **bootstrap},
        }
        config = resolve(
            {"run_dir": str(tmp_path / "line"), "seed": 5, "base": "given", "sft": sft}
        )
        with open_stage(config, "pretrain") as stage:
            stage.save_model(lambda path: save_model(path, writer, tiny_tokenizer, "# Base\n"))
            stage.finish({})
        return config

    return make


def test_the_stage_trains_on_what_was_kept(make_run, bootstrap, seeds_file, tmp_path):
    config = make_run(count=3)
    bootstrap("line/sft", Script(), max_length=64, count=3)
    run(config, "sft")
    manifest = Manifest.read(config.run_dir / "sft")
    assert manifest.status == "complete"
    assert manifest.metrics["examples"] == 4 + 3
    assert manifest.metrics["bootstrap_kept"] == 3
    assert manifest.sources.keys() == {str(tmp_path / "data.jsonl"), str(seeds_file)}
    assert len(read_bootstrap(config.run_dir / "sft")) == 3


def test_the_stage_says_that_nothing_was_kept(make_run):
    config = make_run()
    with pytest.raises(DataError, match="must keep at least one task"):
        run(config, "sft")
    manifest = Manifest.read(config.run_dir / "sft")
    assert manifest.status == "failed"
    assert "none of" in manifest.error
