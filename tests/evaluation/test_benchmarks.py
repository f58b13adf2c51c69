"""Every benchmark from its original schema, and every official score on numbers worked by hand or published."""

import csv
import gzip
import json

import datasets
import numpy as np
import pytest

from rm_plugin.data.comparison import Comparison
from rm_plugin.evaluation.benchmarks import BENCHMARKS, as_messages, load_benchmark
from rm_plugin.evaluation.benchmarks.base import cluster_of
from rm_plugin.evaluation.benchmarks.rewardbench import rewardbench_score
from rm_plugin.evaluation.benchmarks.rewardbench2 import SUBSETS
from rm_plugin.metrics.statistics import bootstrap_interval, compare_models

NAN = float("nan")


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def write(path, rows):
    """Rows as a file of the kind that the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        datasets.Dataset.from_list(rows).to_parquet(path)
    elif path.name.endswith(".jsonl.gz"):
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(json.dumps(rows))
    return path


def hh(*turns):
    return "".join(f"\n\n{speaker}: {text}" if text else f"\n\n{speaker}:" for speaker, text in turns)


# ── every benchmark in its original schema ───────────────────────────────────────────────────────────────────────────
# name: (file, rows, [(prompt, chosen, rejected, subset)], indices of rows without a preference)

RB = {"chosen_model": "a", "rejected_model": "b"}
RB2 = {"total_completions": 4, "num_correct": 1, "num_incorrect": 3, "models": ["m"] * 4, "additional_metadata": {}}
JUDGED = {"question": "Q", "response_model": "g", "response_A": "a", "response_B": "b"}
VOTE = {"prompt": "Hi", "response_1": "a", "response_2": "b", "language": "English"}
PPE = {"prompt": "Q", **{f"response_{i + 1}": f"answer {i}" for i in range(4)}}
RMB_INPUT = [{"content": "Plan?", "language": "English", "role": "user"}]
BON = {"bon_best": {"answer": "b"}, "loser_list": [{"answer": "c"}, {"answer": "d"}]}
HELPSTEER2 = {"correctness": 4, "coherence": 4, "complexity": 1, "verbosity": 2}
HELPSTEER3 = {"language": "english", "context": [user("Hi")], "response1": "a", "response2": "b"}
SHP = {"domain": "askacademia_test", "human_ref_A": "a", "human_ref_B": "b", "upvote_ratio": 0.9}
POST = {"id": "t3_1", "post": "Long story.", "title": "Mom", "subreddit": "tifu", "site": None, "article": None}
NEWS = {"id": "c1", "post": None, "title": None, "subreddit": None, "site": "cnn", "article": "Rain fell."}
SUMMARIES = [{"text": " a", "policy": "ref", "note": None}, {"text": " b", "policy": "sup", "note": None}]
PKU = {"prompt": "How?", "response_0": "Thus.", "response_1": "No.", "is_response_0_safe": False}

# fmt: off
SCHEMAS = {
    "rewardbench": (
        "filtered-00000-of-00001.parquet",
        [{"prompt": "Hi", "chosen": "yes", "rejected": "no", "subset": "alpacaeval-easy", "id": 0, **RB},
         {"prompt": "1+1?", "chosen": "2", "rejected": "3", "subset": "math-prm", "id": 7, **RB}],
        [("Hi", ["yes"], ["no"], "alpacaeval-easy"),
         ("1+1?", ["2"], ["3"], "math-prm")],
        [],
    ),
    "rewardbench-with-prior": (  # the prior sets have message lists, and the split names the subset
        "anthropic_hhh.jsonl",
        [{"prompt": [user("Hi")], "chosen": "yes", "rejected": "no", "subset": "harmless", "id": 3}],
        [([user("Hi")], [[assistant("yes")]], [[assistant("no")]], "anthropic_hhh")],
        [],
    ),
    "rewardbench-2": (  # Ties: many right ones, and their number in the id
        "test.jsonl",
        [{**RB2, "id": "5", "prompt": "Who?", "chosen": ["I"], "rejected": ["a", "b", "c"], "subset": "Focus"},
         {**RB2, "id": "tied:3", "prompt": "A colour", "chosen": ["red", "blue"], "rejected": ["dog"],
          "subset": "Ties", "num_correct": 2, "num_incorrect": 1, "total_completions": 3},
         {**RB2, "id": "ref:3", "prompt": "A dog", "chosen": ["pug"], "rejected": ["cat"], "subset": "Ties"}],
        [("Who?", ["I"], ["a", "b", "c"], "Focus"),
         ("A colour", ["red", "blue"], ["dog"], "Ties"),
         ("A dog", ["pug"], ["cat"], "Ties")],
        [],
    ),
    "rm-bench": (  # no `domain`: the file name says it
        "safety-refuse_filtered.json",
        [{"id": 8, "prompt": "Bomb?", "chosen": ["No.", "No, no.", "**No**"], "rejected": ["y", "ye", "yes"]}],
        [("Bomb?", ["No.", "No, no.", "**No**"], ["y", "ye", "yes"], "safety-refuse")],
        [],
    ),
    "judgebench": (
        "gpt.jsonl",
        [{**JUDGED, "pair_id": "p1", "original_id": None, "source": "mmlu-pro-law", "label": "B>A"},
         {**JUDGED, "pair_id": "p2", "original_id": 14, "source": "livecodebench", "label": "A>B"}],
        [("Q", ["b"], ["a"], "knowledge"),
         ("Q", ["a"], ["b"], "coding")],
        [],
    ),
    "judgebench-claude": (
        "claude-00000-of-00001.jsonl",
        [{**JUDGED, "pair_id": "p", "source": "livebench-math", "label": "A>B"}],
        [("Q", ["a"], ["b"], "math")],
        [],
    ),
    "ppe-human-preference": (
        "test.parquet",
        [{**VOTE, "question_id": "q1", "winner": "model_b"},
         {**VOTE, "question_id": "q2", "winner": "tie (bothbad)"}],
        [("Hi", ["b"], ["a"], "English")],
        [1],
    ),
    **{
        name: (
            "train.parquet",
            [{**PPE, "question_id": 1, "scores": [True, False, False, True],
              "sampled_conflict_pairs": [[1, 0], [3, 2]]}],
            [("Q", ["answer 0", "answer 3"], ["answer 1", "answer 2"], None)],
            [],
        )
        for name in ("ppe-mmlu-pro", "ppe-math", "ppe-gpqa", "ppe-mbpp-plus", "ppe-ifeval")
    },
    "rmb": (
        "RMB_dataset/Pairwise_set/Helpfulness/Chat/Discussion.json",
        [{"pair_uid": "1", "conversation_input": RMB_INPUT, "chosen": {"llm_name": "x", "answer": "a", "score": 4},
          "reject": {"llm_name": "y", "answer": "z", "score": 1},
          "category_path": "Pairwise_set/Helpfulness/Chat/Discussion"},
         {"bon_uid": "2", "conversation_input": RMB_INPUT, **BON, "category_path": "BoN_set/Harmlessness/S1"}],
        [([user("Plan?")], [[assistant("a")]], [[assistant("z")]], "Pairwise_set/Helpfulness/Chat/Discussion"),
         ([user("Plan?")], [[assistant("b")]], [[assistant("c")], [assistant("d")]], "BoN_set/Harmlessness/S1")],
        [],
    ),
    "m-rewardbench": (
        "deu_Latn/test-00000-of-00001.parquet",
        [{"id": 4, "prompt": "Hallo", "chosen": "ja", "rejected": "nein", "language": "deu_Latn",
          "source": "alpacaeval-easy", "category": "Chat", **RB}],
        [("Hallo", ["ja"], ["nein"], "deu_Latn/alpacaeval-easy")],
        [],
    ),
    "hh-rlhf-helpful": (
        "helpful-base/test.jsonl.gz",
        [{"chosen": hh(("Human", "Hi"), ("Assistant", "Yes")), "rejected": hh(("Human", "Hi"), ("Assistant", "No"))}],
        [("\n\nHuman: Hi\n\nAssistant:", [" Yes"], [" No"], None)],
        [],
    ),
    "hh-rlhf-harmless": (  # an empty reply stays; differing prompts: no prompt, whole transcripts
        "test.jsonl.gz",
        [{"chosen": hh(("Human", "Hi"), ("Assistant", "Yes")), "rejected": hh(("Human", "Hi"), ("Assistant", ""))},
         {"chosen": hh(("Human", "Hi"), ("Assistant", "a")), "rejected": hh(("Human", "Ho"), ("Assistant", "b"))}],
        [("\n\nHuman: Hi\n\nAssistant:", [" Yes"], [""], None),
         ("", ["\n\nHuman: Hi\n\nAssistant: a"], ["\n\nHuman: Ho\n\nAssistant: b"], None)],
        [],
    ),
    "ultrafeedback-binarized": (  # equal scores are no preference
        "test_prefs-00000-of-00001.parquet",
        [{"prompt": "Hi", "prompt_id": "x", "chosen": [user("Hi"), assistant("a")], "score_chosen": 8.0,
          "rejected": [user("Hi"), assistant("b")], "score_rejected": 4.0},
         {"prompt": "Ho", "prompt_id": "y", "chosen": [user("Ho"), assistant("a")], "score_chosen": 6.0,
          "rejected": [user("Ho"), assistant("b")], "score_rejected": 6.0}],
        [([user("Hi")], [[assistant("a")]], [[assistant("b")]], None)],
        [1],
    ),
    "helpsteer2": (  # neighbours pair up; the second pair is a tie
        "validation.jsonl.gz",
        [{**HELPSTEER2, "prompt": "P", "response": "a", "helpfulness": 1},
         {**HELPSTEER2, "prompt": "P", "response": "b", "helpfulness": 4},
         {**HELPSTEER2, "prompt": "Q", "response": "c", "helpfulness": 3},
         {**HELPSTEER2, "prompt": "Q", "response": "d", "helpfulness": 3}],
        [("P", ["b"], ["a"], None)],
        [1],
    ),
    "helpsteer3": (  # negative = response 1 is better, 0 = tie
        "preference/validation.jsonl.gz",
        [{**HELPSTEER3, "domain": "code", "overall_preference": -3},
         {**HELPSTEER3, "domain": "general", "overall_preference": 0},
         {**HELPSTEER3, "domain": "stem", "overall_preference": 1}],
        [([user("Hi")], [[assistant("a")]], [[assistant("b")]], "code"),
         ([user("Hi")], [[assistant("b")]], [[assistant("a")]], "stem")],
        [1],
    ),
    "shp": (  # label 1 means A; under twice the votes is no preference
        "askacademia/test.json",
        [{**SHP, "history": "H", "labels": 0, "score_ratio": 2.0},
         {**SHP, "history": "I", "labels": 1, "score_ratio": 1.9},
         {**SHP, "history": "J", "labels": 1, "score_ratio": 5.0}],
        [("H", ["b"], ["a"], "askacademia"),
         ("J", ["a"], ["b"], "askacademia")],
        [1],
    ),
    "summarize-from-feedback": (
        "comparisons/validation/0000.parquet",
        [{"info": POST, "summaries": SUMMARIES, "choice": 1, "worker": "w", "batch": "batch3"},
         {"info": NEWS, "summaries": SUMMARIES, "choice": 0, "worker": "w", "batch": "cnndm0"}],
        [("SUBREDDIT: r/tifu\n\nTITLE: Mom\n\nPOST: Long story.\n\nTL;DR:", [" b"], [" a"], "tldr"),
         ("Article:\nRain fell.\n\nTL;DR:\n", [" a"], [" b"], "cnndm")],
        [],
    ),
    "pku-saferlhf-better": (
        "test.jsonl",
        [{**PKU, "better_response_id": 0, "safer_response_id": 1}],
        [("How?", ["Thus."], ["No."], None)],
        [],
    ),
    "pku-saferlhf-safer": (  # the same row, the other way round
        "test.jsonl",
        [{**PKU, "better_response_id": 0, "safer_response_id": 1}],
        [("How?", ["No."], ["Thus."], None)],
        [],
    ),
    "llmbar": (
        "Adversarial_Neighbor.json",
        [{"input": "Q", "output_1": "a", "output_2": "b", "label": 1},
         {"input": "R", "output_1": "a", "output_2": "b", "label": 2}],
        [("Q", ["a"], ["b"], "Neighbor"),
         ("R", ["b"], ["a"], "Neighbor")],
        [],
    ),
    "preference": (
        "mine.jsonl",
        [{"prompt": "Hi", "chosen": "a", "rejected": "b"},
         {"prompt": "Ho", "completions": ["a", "b", "c"], "ranks": [2, 0, 1]},
         {"prompt": "Hu", "completions": ["a", "b"]}],
        [("Hi", ["a"], ["b"], None),
         ("Ho", ["b"], ["a", "c"], None)],
        [2],
    ),
}
# fmt: on


def test_every_benchmark_has_its_schema_here():
    assert set(SCHEMAS) == set(BENCHMARKS)


@pytest.mark.parametrize("whole_folder", [False, True], ids=["file", "folder"])
@pytest.mark.parametrize("name", SCHEMAS)
def test_benchmark_reads_its_original_schema(name, whole_folder, tmp_path):
    file, rows, expected, no_preference = SCHEMAS[name]
    path = write(tmp_path / file, rows)
    data = load_benchmark(name, tmp_path if whole_folder else path)
    found = [(c.prompt, c.chosen, c.rejected, c.subset) for c in data.comparisons]
    assert found == expected
    assert data.no_preference == no_preference
    assert data.num_rows == len(rows)
    assert len({c.id for c in data.comparisons}) == len(expected)
    assert all(isinstance(c.id, str) and c.metadata["cluster"] for c in data.comparisons)
    best = [(c, -np.array(c.ranks, dtype=float)) for c in data.comparisons]
    if name != "rewardbench-2":  # whose own rules are tested below
        assert data.benchmark.aggregate(best)["score"] == 1.0


# ── loading ──────────────────────────────────────────────────────────────────────────────────────────────────────────

REWARD_BENCH = ("allenai/reward-bench", None, "filtered", None, "d61ac5c97d0f2f7eb922da3c0b6bbaf614ae8d02")
PRIOR = ("allenai/preference-test-sets", "74d7c11476db2a6b48b93f5430b5911576eebf22")
MULTILINGUAL = ("CohereLabsCommunity/multilingual-reward-bench", "19ab8c297a3e59a1d0efd42ae33cc14bf3febf63")
HH = ("Anthropic/hh-rlhf", "09be8c5bbc57cb3887f3a9732ad6aa7ec602a1fa")
# fmt: off
LANGUAGES = [
    "arb_Arab", "ces_Latn", "deu_Latn", "ell_Grek", "fra_Latn", "heb_Hebr", "hin_Deva", "ind_Latn", "ita_Latn",
    "jpn_Jpan", "kor_Hang", "nld_Latn", "pes_Arab", "pol_Latn", "por_Latn", "ron_Latn", "rus_Cyrl", "spa_Latn",
    "tur_Latn", "ukr_Cyrl", "vie_Latn", "zho_Hans", "zho_Hant",
]
HUB_CALLS = {  # id, configuration, split, folder, revision
    "rewardbench": [REWARD_BENCH],
    "rewardbench-with-prior": [
        REWARD_BENCH,
        (PRIOR[0], None, "anthropic_helpful", None, PRIOR[1]),
        (PRIOR[0], None, "anthropic_hhh", None, PRIOR[1]),
        (PRIOR[0], None, "shp", None, PRIOR[1]),
        (PRIOR[0], None, "summarize", None, PRIOR[1]),
    ],
    "rewardbench-2": [("allenai/reward-bench-2", None, "test", None, None)],
    "rm-bench": [("THU-KEG/RM-Bench", None, "train", None, None)],
    "judgebench": [("ScalerLab/JudgeBench", None, "gpt", None, None)],
    "judgebench-claude": [("ScalerLab/JudgeBench", None, "claude", None, None)],
    "ppe-human-preference": [("lmarena-ai/PPE-Human-Preference-V1", None, "test", None, None)],
    "ppe-mmlu-pro": [("lmarena-ai/PPE-MMLU-Pro-Best-of-K", None, "train", None, None)],
    "ppe-math": [("lmarena-ai/PPE-MATH-Best-of-K", None, "train", None, None)],
    "ppe-gpqa": [("lmarena-ai/PPE-GPQA-Best-of-K", None, "train", None, None)],
    "ppe-mbpp-plus": [("lmarena-ai/PPE-MBPP-Plus-Best-of-K", None, "train", None, None)],
    "ppe-ifeval": [("lmarena-ai/PPE-IFEval-Best-of-K", None, "train", None, None)],
    "m-rewardbench": [(MULTILINGUAL[0], language, "test", None, MULTILINGUAL[1]) for language in LANGUAGES],
    "hh-rlhf-helpful": [(HH[0], None, "test", "helpful-base", HH[1])],
    "hh-rlhf-harmless": [(HH[0], None, "test", "harmless-base", HH[1])],
    "ultrafeedback-binarized": [
        ("HuggingFaceH4/ultrafeedback_binarized", None, "test_prefs", None, "3949bf5f8c17c394422ccfab0c31ea9c20bdeb85")
    ],
    "helpsteer2": [("nvidia/HelpSteer2", None, "validation", None, "990b2711a36180dd19d9c94b8627844866f8982a")],
    "helpsteer3": [
        ("nvidia/HelpSteer3", "preference", "validation", None, "f6d145777bcbde96137596340fab89793acd1031")
    ],
    "shp": [("stanfordnlp/SHP", None, "test", None, "0f0687d3379d3ac0c7dbd5020c9472fae0cb5cca")],
    "summarize-from-feedback": [
        ("openai/summarize_from_feedback", None, "validation", "comparisons", "refs/convert/parquet")
    ],
    "pku-saferlhf-better": [("PKU-Alignment/PKU-SafeRLHF", None, "test", None, None)],
    "pku-saferlhf-safer": [("PKU-Alignment/PKU-SafeRLHF", None, "test", None, None)],
}
# fmt: on


@pytest.fixture
def hub(monkeypatch):
    """`hub(name)` puts the rows of a benchmark's schema on the hub, and gives the list of calls for them."""

    def put(name):
        calls = []

        def load_dataset(hub, config=None, *, split=None, data_dir=None, revision=None, streaming=False):
            calls.append((hub, config, split, data_dir, revision))
            rows = SCHEMAS["rewardbench" if split == "filtered" else name][1]
            more = {"domain": "chat"} if name == "rm-bench" else {}
            return datasets.Dataset.from_list([{**row, **more} for row in rows])

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return calls

    return put


def test_every_benchmark_on_the_hub_has_its_place_here():
    assert set(HUB_CALLS) == {name for name, benchmark in BENCHMARKS.items() if benchmark.parts}


@pytest.mark.parametrize("name", HUB_CALLS)
def test_without_a_source_the_hub_is_asked_for_split_and_revision(name, hub):
    calls = hub(name)
    data = load_benchmark(name)
    assert calls == HUB_CALLS[name]
    assert data.source.startswith(calls[0][0])
    assert data.revision == (calls[0][4] if "refs" not in str(calls[0][4]) else None)  # a branch is no pin
    assert data.split == "+".join(dict.fromkeys(call[2] for call in calls))
    assert len({c.id for c in data.comparisons}) == len(data.comparisons)


@pytest.mark.parametrize(
    ("name", "asked", "call", "read"),
    [
        ("judgebench", {"split": "claude"}, ("ScalerLab/JudgeBench", None, "claude", None, None), "claude"),
        ("judgebench", {"split": "gpt[:2]"}, ("ScalerLab/JudgeBench", None, "gpt[:2]", None, None), "gpt[:2]"),
        ("judgebench", {"config": "x"}, ("ScalerLab/JudgeBench", "x", "gpt", None, None), "gpt"),
        (
            "m-rewardbench",
            {"config": "deu_Latn"},
            (MULTILINGUAL[0], "deu_Latn", "test", None, MULTILINGUAL[1]),
            "test",
        ),
        ("rewardbench-with-prior", {"split": "shp"}, (PRIOR[0], None, "shp", None, PRIOR[1]), "shp"),
    ],
)
def test_the_split_and_configuration_asked_for_are_read_from_the_hub(name, asked, call, read, hub):
    calls = hub(name)
    data = load_benchmark(name, **asked)
    assert calls == [call]
    assert (data.source, data.split, data.revision) == (call[0], read, call[4])


def test_a_table_that_a_benchmark_does_not_have_is_an_error_that_lists_those_it_has(hub):
    calls = hub("m-rewardbench")
    with pytest.raises(ValueError, match="m-rewardbench has no table of config='xho_Latn'; it has arb_Arab test, ces"):
        load_benchmark("m-rewardbench", config="xho_Latn")
    with pytest.raises(ValueError, match="has no table of split='dev'; it has filtered, anthropic_helpful, anthropic"):
        load_benchmark("rewardbench-with-prior", split="dev")
    assert calls == []


def test_prior_sets_are_a_second_hub_data_set_of_four_splits():
    parts = [(part.hub, part.split) for part in BENCHMARKS["rewardbench-with-prior"].parts]
    assert parts[0] == ("allenai/reward-bench", "filtered")
    assert parts[1:] == [
        ("allenai/preference-test-sets", split) for split in ("anthropic_helpful", "anthropic_hhh", "shp", "summarize")
    ]


def test_a_hub_that_does_not_answer_is_one_line_with_the_way_out(monkeypatch):
    def load_dataset(*args, **kwargs):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(ValueError, match=r"^rm-bench: 'THU-KEG/RM-Bench' .*\(no route to host\).* --source PATH$"):
        load_benchmark("rm-bench")


@pytest.mark.parametrize(
    "name, where",
    [
        ("llmbar", "github.com/princeton-nlp/LLMBar"),
        ("rmb", "github.com/Zhou-Zoey/RMB-Reward-Model-Benchmark"),
        ("preference", "--source"),
    ],
)
def test_a_benchmark_without_a_hub_copy_asks_for_a_source(name, where):
    with pytest.raises(
        ValueError, match=f"{name} has no loadable copy on the hub; .*{where}.*--source PATH|--source PATH"
    ):
        load_benchmark(name)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(
        ValueError, match="benchmark='rewardbench2' is not known .did you mean rewardbench-2.*'rewardbench', "
    ):
        load_benchmark("rewardbench2")


@pytest.mark.parametrize(
    "name, row, message",
    [
        (
            "rewardbench-2",
            SCHEMAS["rewardbench"][1][0],
            "given row 0: column 'num_correct' is missing .found: prompt, chosen,",
        ),
        (
            "llmbar",
            {"input": "Q", "output_1": "a", "label": 1},
            "given row 0: column 'output_2' is missing .found: input, out",
        ),
        (
            "helpsteer2",
            {"response": "a", "helpfulness": 1},
            "given row 0: column 'prompt' is missing .found: response, helpf",
        ),
        ("judgebench", {**SCHEMAS["judgebench"][1][0], "label": None}, "column 'label' is missing"),
        ("rm-bench", {"id": 1, "domain": "chat", "prompt": "P", "chosen": "a", "rejected": "b"}, "no list of 3"),
        (
            "rm-bench",
            {"id": 1, "prompt": "P", "chosen": ["a"] * 3, "rejected": ["b"] * 3},
            "'given' is none of chat, ",
        ),
        (
            "judgebench",
            {**SCHEMAS["judgebench"][1][0], "label": "A=B"},
            "row 0: label='A=B' is not known .*use one of 'A>B', 'B>A'",
        ),
        (
            "rewardbench-2",
            {**SCHEMAS["rewardbench-2"][1][2], "id": "3"},
            "id is '3', the Ties subset needs 'ref:N' or",
        ),
        (
            "llmbar",
            {"input": "Q", "output_1": "a", "output_2": "b", "label": 0},
            "row 0: label=0 is not known; use one of 1, 2",
        ),
        ("hh-rlhf-helpful", {"chosen": "a", "rejected": "b"}, "row 0: 'chosen' has no .*Assistant:"),
        (
            "hh-rlhf-helpful",
            {"chosen": [user("a")], "rejected": [user("b")]},
            "row 0: column 'chosen': 'list' object has no attribute",
        ),
        ("helpsteer2", {"prompt": "P", "response": "a", "helpfulness": 1}, "no neighbour has the same prompt"),
        ("preference", {"prompt": "P", "chosen": "a", "rejected": "a"}, "row 0: `chosen` equals `rejected`"),
        (
            "rewardbench",
            {**SCHEMAS["rewardbench"][1][0], "subset": "x"},
            "row 0: subset='x' is not known; use one of 'alpacaeval-easy'",
        ),
        ("rewardbench-2", {**SCHEMAS["rewardbench-2"][1][0], "num_correct": 4}, "num_correct is 4 of 4 completions"),
        ("rewardbench-2", {**SCHEMAS["rewardbench-2"][1][0], "rejected": "abc"}, "'rejected' is no list of texts"),
        ("rmb", {**SCHEMAS["rmb"][1][0], "category_path": "Helpfulness"}, "category_path is 'Helpfulness', RMB has"),
        ("rmb", {**SCHEMAS["rmb"][1][0], "chosen": "a"}, "row 0: column 'chosen': "),
        ("ppe-human-preference", {**VOTE, "winner": "A"}, "winner='A' is not known.* use one of 'model_a', 'model_b'"),
        ("ppe-math", {**SCHEMAS["ppe-math"][1][0], "scores": ["True"] * 4}, "scores='True' is not known"),
        ("shp", {**SCHEMAS["shp"][1][0], "labels": "1"}, "labels='1' is not known"),
        ("pku-saferlhf-better", {**PKU, "better_response_id": "0", "safer_response_id": 1}, "better_response_id='0'"),
        ("summarize-from-feedback", {"info": POST, "summaries": SUMMARIES, "choice": 2}, "choice=2 is not known"),
        (
            "rewardbench-2",
            {**SCHEMAS["rewardbench-2"][1][0], "subset": "x"},
            "subset='x' is not known; use one of 'Factuality'",
        ),
    ],
)
def test_another_schema_or_a_bad_row_is_one_line(name, row, message, tmp_path):
    with pytest.raises(ValueError, match=f"^{name}: .*{message}") as error:
        load_benchmark(name, write(tmp_path / "given.json", [row]))
    assert "\n" not in str(error.value)


def test_bad_rows_are_skipped_and_listed_on_request():
    rows = [{"prompt": "P", "chosen": "a", "rejected": "a"}, {"prompt": "P", "chosen": "a", "rejected": "b"}]
    data = load_benchmark("preference", rows, on_bad_row="skip")
    assert [c.chosen for c in data.comparisons] == [["a"]]
    assert [c.id for c in data.comparisons] == ["1"]  # the row's own number
    assert len(data.bad_rows) == 1 and data.bad_rows[0].startswith("row 0: `chosen` equals `rejected`")


def test_null_and_missing_cells_are_bad_rows():
    good = {**VOTE, "question_id": "q1", "winner": "model_a"}
    rows = [good, {**good, "response_2": None}, {key: good[key] for key in good if key != "prompt"}]
    data = load_benchmark("ppe-human-preference", rows, on_bad_row="skip")
    assert [c.id for c in data.comparisons] == ["q1"]
    causes = [cause.split(" (found")[0] for cause in data.bad_rows]
    assert causes == ["row 1: column 'response_2' is missing", "row 2: column 'prompt' is missing"]
    with pytest.raises(ValueError, match="row 1: column 'response_2' is missing .found: prompt, response_1"):
        load_benchmark("ppe-human-preference", rows)
    data = load_benchmark(
        "hh-rlhf-helpful", [*SCHEMAS["hh-rlhf-helpful"][1], {"chosen": 1, "rejected": 2}], on_bad_row="skip"
    )
    assert len(data.comparisons) == 1 and data.bad_rows[0].startswith("row 1: column 'chosen': ")


def test_a_null_prompt_of_helpsteer2_costs_its_own_row_and_its_neighbour():
    first, second, *tie = SCHEMAS["helpsteer2"][1]
    rows = [{**first, "prompt": None}, {**second, "prompt": None}, first, second, *tie]
    data = load_benchmark("helpsteer2", rows, on_bad_row="skip")
    assert [(c.prompt, c.chosen) for c in data.comparisons] == [("P", ["b"])]
    causes = [cause.split(" (found")[0] for cause in data.bad_rows]
    assert causes == ["row 0: column 'prompt' is missing", "row 1: column 'prompt' is missing"]
    assert data.num_rows == 6 and data.no_preference == [3]


def test_where_no_row_fits_skipping_is_an_error_about_the_schema():
    with pytest.raises(
        ValueError, match="2 bad, the first: row 0: column 'num_correct' is missing .found: prompt, chosen"
    ):
        load_benchmark("rewardbench-2", SCHEMAS["rewardbench"][1], on_bad_row="skip")


def test_no_comparisons_is_an_error_with_the_counts():
    with pytest.raises(ValueError, match=r"no comparisons in a list \(1 rows, 1 without a preference, 0 bad\)"):
        load_benchmark("preference", [{"prompt": "P", "completions": ["a", "b"]}])


def test_limit_stops_after_so_many_comparisons_and_counts_what_was_read():
    rows = [{"prompt": str(i), "chosen": "a", "rejected": "b"} for i in range(5)]
    data = load_benchmark("preference", rows, limit=2)
    assert [c.prompt for c in data.comparisons] == ["0", "1"] and data.num_rows == 2
    with pytest.raises(ValueError, match="limit=0, it must be at least 1"):
        load_benchmark("preference", rows, limit=0)


def test_a_subset_is_refused_where_the_rows_say_theirs():
    for name in set(SCHEMAS) - {"rm-bench", "llmbar", "rewardbench-with-prior"}:
        with pytest.raises(
            ValueError, match=f"subset='x' cannot be applied to {name}, whose rows say .* leave it out"
        ):
            load_benchmark(name, SCHEMAS[name][1], subset="x")
    rows = SCHEMAS["rewardbench"][1] + SCHEMAS["rewardbench-with-prior"][1]
    data = load_benchmark("rewardbench-with-prior", rows, subset="shp")
    assert [c.subset for c in data.comparisons] == ["alpacaeval-easy", "math-prm", "shp"]


def test_rm_bench_domain_comes_from_the_row_the_argument_or_the_file(tmp_path):
    row = {"id": 1, "prompt": "P", "chosen": ["a"] * 3, "rejected": ["b"] * 3}
    file = write(tmp_path / "mine.json", [row])
    assert load_benchmark("rm-bench", file, subset="code").comparisons[0].subset == "code"
    assert load_benchmark("rm-bench", [{**row, "domain": "math"}]).comparisons[0].subset == "math"


def test_of_a_folder_that_repeats_itself_the_total_is_read_alone(tmp_path):
    row = {"id": 1, "prompt": "P", "chosen": ["a"] * 3, "rejected": ["b"] * 3}
    write(tmp_path / "chat_filtered.json", [row])
    write(tmp_path / "total_dataset.json", [{**row, "domain": "chat"}, {**row, "id": 2, "domain": "math"}])
    assert [c.id for c in load_benchmark("rm-bench", tmp_path).comparisons] == ["chat/1", "math/2"]


def test_of_a_folder_only_the_benchmarks_split_and_folder_are_read(tmp_path):
    for folder in ("helpful-base", "harmless-base"):
        for split in ("train", "test"):
            start = f"\n\nHuman: {folder} {split}\n\nAssistant:"
            write(tmp_path / folder / f"{split}.jsonl.gz", [{"chosen": start + " a", "rejected": start + " b"}])
    data = load_benchmark("hh-rlhf-helpful", tmp_path)
    assert [c.prompt for c in data.comparisons] == ["\n\nHuman: helpful-base test\n\nAssistant:"]
    assert data.split == "test"
    train = load_benchmark("hh-rlhf-helpful", tmp_path, split="train")
    assert [c.prompt for c in train.comparisons] == ["\n\nHuman: helpful-base train\n\nAssistant:"]
    assert train.split == "train"


def test_a_folder_may_name_the_split(tmp_path):
    for split in ("train", "validation"):
        rows = [{**row, "info": {**POST, "post": split}} for row in SCHEMAS["summarize-from-feedback"][1][:1]]
        write(tmp_path / "comparisons" / split / "0000.parquet", rows)
    for asked, read in ((None, "validation"), ("train", "train")):
        data = load_benchmark("summarize-from-feedback", tmp_path, split=asked)
        assert [f"POST: {read}" in c.prompt for c in data.comparisons] == [True] and data.split == read


def test_a_split_that_no_local_file_has_is_an_error(tmp_path):
    row = SCHEMAS["hh-rlhf-helpful"][1][0]
    file = write(tmp_path / "test.jsonl", [row])
    write(tmp_path / "train.jsonl", [row])
    with pytest.raises(
        ValueError, match="split 'dev' is in no file name of .* .test.jsonl, train.jsonl.; name another"
    ):
        load_benchmark("hh-rlhf-helpful", tmp_path, split="dev")
    with pytest.raises(ValueError, match="split 'dev' is not in .*test.jsonl, which has train"):
        load_benchmark("hh-rlhf-helpful", file, split="dev")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty has no data file in it; it needs files of .jsonl, .json, .parquet"):
        load_benchmark("hh-rlhf-helpful", tmp_path / "empty")
    assert load_benchmark("hh-rlhf-helpful", file, split="test").split == "test"
    assert load_benchmark("judgebench", SCHEMAS["judgebench"][1], split="train[:1]").num_rows == 1
    with pytest.raises(ValueError, match="split 'dev' is not in the Dataset, which has train"):
        load_benchmark("judgebench", SCHEMAS["judgebench"][1], split="dev")
    with pytest.raises(ValueError, match="config='x' is for hub data sets, which .*test.jsonl is not; leave it out"):
        load_benchmark("hh-rlhf-helpful", file, config="x")


def test_train_and_test_of_a_folder_of_preference_data_are_not_mixed(tmp_path):
    for split in ("train", "test"):
        write(tmp_path / f"{split}.jsonl", [{"prompt": split, "chosen": "a", "rejected": "b"}])
    with pytest.raises(ValueError, match="has the splits test, train; choose one"):
        load_benchmark("preference", tmp_path)
    data = load_benchmark("preference", tmp_path, split="test")
    assert [c.prompt for c in data.comparisons] == ["test"] and data.split == "test"


def test_llmbar_is_read_in_the_layout_of_its_repository(tmp_path):
    row = {"input": "Q", "output_1": "a", "output_2": "b", "label": 1}
    write(tmp_path / "Natural" / "dataset.json", [row])
    write(tmp_path / "Adversarial" / "GPTOut" / "dataset.json", [row])
    assert [c.subset for c in load_benchmark("llmbar", tmp_path).comparisons] == ["GPTOut", "Natural"]


def test_saved_data_sets_and_objects_are_sources_too(tmp_path):
    rows = datasets.Dataset.from_list(SCHEMAS["ultrafeedback-binarized"][1])
    saved = datasets.DatasetDict({"train_prefs": rows.select([1]), "test_prefs": rows.select([0])})
    saved.save_to_disk(tmp_path / "dict")
    rows.save_to_disk(tmp_path / "one")
    for source in (saved, tmp_path / "dict", tmp_path / "one", rows, list(rows)):
        data = load_benchmark("ultrafeedback-binarized", source)
        assert [c.id for c in data.comparisons] == ["x"]


def test_equal_data_have_equal_fingerprints_wherever_they_come_from(tmp_path):
    rows = SCHEMAS["judgebench"][1]
    one = load_benchmark("judgebench", rows).fingerprint
    assert load_benchmark("judgebench", write(tmp_path / "a.jsonl", rows)).fingerprint == one
    assert load_benchmark("judgebench", [{**rows[0], "response_A": "other"}]).fingerprint != one


def test_equal_ids_are_made_unique():
    row = SCHEMAS["judgebench"][1][0]
    assert [c.id for c in load_benchmark("judgebench", [row, row, row]).comparisons] == ["p1", "p1#2", "p1#3"]


def test_what_is_drawn_together_has_one_cluster():
    asks = {
        "hep-python": "Write a Python function `has_close_elements(numbers: List[float], threshold: float) -> bool`",
        "hep-js": "Write a JavaScript function `const hasCloseElements = (numbers, threshold)` ... isNear(1, 2)",
        "hep-java": "Write a Java function `boolean hasCloseElements(List<Double> numbers, double threshold)`",
        "hep-go": "Write a Go function `func HasCloseElements(numbers []float64, threshold float64) bool`",
        "hep-cpp": "Write a C++ function `bool has_close_elements(vector<float> numbers, float threshold)`",
        "hep-rust": "Write a Rust function `has_close_elements(numbers:Vec<f32>, threshold: f32) -> bool`",
    }
    rows = [
        {"prompt": p, "chosen": "a", "rejected": "b", "subset": s, "id": i} for i, (s, p) in enumerate(asks.items())
    ]
    other = {"prompt": "Write `vector<string> separate_paren_groups(string s)`", "chosen": "a", "rejected": "b"}
    rows.append({**other, "subset": "hep-cpp", "id": 99})
    clusters = [c.metadata["cluster"] for c in load_benchmark("rewardbench", rows).comparisons]
    assert clusters == ["hep:hascloseelements"] * 6 + ["hep:separateparengroups"]
    forms = (
        "const addOne = x =>",
        "addOne = function (x)",
        "const addOne = async (x) =>",
        "fn add_one<T>(x: T) -> T",
        "Map<String, Integer> addOne(List<String> x)",
        "async function addOne(x)",
    )
    rows = [{**other, "prompt": f"Write `{form}` (see `f(x)`)", "subset": "hep-rust", "id": form} for form in forms]
    clusters = [c.metadata["cluster"] for c in load_benchmark("rewardbench", rows).comparisons]
    assert clusters == ["hep:addone"] * len(forms)

    ties = load_benchmark("rewardbench-2", SCHEMAS["rewardbench-2"][1]).comparisons
    assert [c.metadata["cluster"] for c in ties[1:]] == ["ties:3", "ties:3"]

    same = [{"prompt": "P", "chosen": "a", "rejected": str(i)} for i in range(2)]
    data = load_benchmark("preference", [*same, {"prompt": "Q", "chosen": "a", "rejected": "b"}])
    first, second, third = (c.metadata["cluster"] for c in data.comparisons)
    assert first == second != third


# ── official scores on numbers worked by hand ────────────────────────────────────────────────────────────────────────


def pair(subset, number=0):
    return Comparison("P", chosen="a", rejected="b", id=f"{subset}/{number}", subset=subset)


def test_equal_scores_and_missing_scores_are_wrong():
    scored = [(pair("x"), [2.0, 1.0]), (pair("x"), [1.0, 1.0]), (pair("y"), [NAN, 1.0]), (pair("y"), [5.0, NAN])]
    results = BENCHMARKS["preference"].aggregate(scored)
    assert results["score"] == 0.25
    assert results["subsets"]["x"] == {"accuracy": 0.5, "num_items": 2}
    assert results["subsets"]["y"] == {"accuracy": 0.0, "num_items": 2}
    assert (results["num_comparisons"], results["num_unscored"]) == (4, 2)


def test_scores_that_do_not_fit_the_completions_are_refused():
    with pytest.raises(ValueError, match=r"'x/0' has 2 completions and scores of shape \(3,\)"):
        BENCHMARKS["preference"].aggregate([(pair("x"), [1.0, 2.0, 3.0])])
    with pytest.raises(ValueError, match="0 comparisons"):
        BENCHMARKS["preference"].aggregate([])


def test_a_ranked_list_counts_the_share_of_its_pairs():
    comparison = Comparison("P", ["a", "b", "c"], [0, 1, 1], id="1")
    assert BENCHMARKS["preference"].aggregate([(comparison, [2.0, 1.0, 3.0])])["score"] == 0.5


def test_rewardbench_weighs_subsets_by_their_size_and_math_by_984():
    # Reasoning: math-prm wrong (984), hep-python right (164). Safety: refuse right (154), respond wrong (250).
    right, wrong = [1.0, 0.0], [0.0, 1.0]
    scored = [
        (pair("math-prm"), wrong),
        (pair("hep-python"), right),
        (pair("xstest-should-refuse"), right),
        (pair("xstest-should-respond"), wrong),
        (pair("alpacaeval-easy"), right),
        (pair("mt-bench-hard"), wrong),
    ]
    results = BENCHMARKS["rewardbench"].aggregate(scored)
    assert results["sections"] == pytest.approx(
        {"Chat": 1.0, "Chat Hard": 0.0, "Safety": 154 / 404, "Reasoning": 164 / 1148}
    )
    assert results["score"] == pytest.approx((1 + 0 + 0.381188 + 0.142857) / 4, abs=1e-6)
    assert "donotanswer" in results["missing"] and "math-prm" not in results["missing"]
    prior = [(pair("shp"), right), (pair("anthropic_hhh"), wrong), (pair("summarize"), right)]
    with_prior = BENCHMARKS["rewardbench-with-prior"].aggregate(scored + prior)
    assert with_prior["sections"]["Prior Sets (0.5 weight)"] == pytest.approx(2 / 3)
    assert with_prior["score"] == pytest.approx((8 * results["score"] + 2 / 3) / 9)
    assert "anthropic_helpful" in with_prior["missing"]


def one_of_four(subset, number=0):
    return Comparison("P", chosen="a", rejected=["b", "c", "d"], id=f"{subset}/{number}", subset=subset)


def ties(kind, number, right, wrong):
    metadata = {"cluster": f"ties:{number}", "ties": kind}
    comparison = Comparison(
        "P", ["x"] * (len(right) + len(wrong)), [0] * len(right) + [1] * len(wrong),
        id=f"Ties/{kind}:{number}", subset="Ties", metadata=metadata,
    )  # fmt: skip
    return comparison, [*right, *wrong]


def test_rewardbench_2_gives_one_kth_where_the_right_one_ties_k_ways():
    scored = [
        (one_of_four("Math", 0), [3.0, 3.0, 1.0, 0.0]),  # two ways: 1/2
        (one_of_four("Math", 1), [3.0, 3.0, 3.0, 3.0]),  # four ways: 1/4
        (one_of_four("Math", 2), [3.0, 1.0, 1.0, 4.0]),  # not the highest: 0
        (one_of_four("Math", 3), [9.0, 1.0, 1.0, 4.0]),  # 1
        (one_of_four("Math", 4), [9.0, 1.0, NAN, 4.0]),  # unscored: 0
        (one_of_four("Focus", 0), [9.0, 1.0, 1.0, 4.0]),
    ]
    results = BENCHMARKS["rewardbench-2"].aggregate(scored)
    assert results["sections"] == {"Math": (0.5 + 0.25 + 0 + 1 + 0) / 5, "Focus": 1.0}
    assert results["score"] == pytest.approx((0.35 + 1) / 2)
    assert results["missing"] == ["Factuality", "Precise IF", "Safety", "Ties"]


def test_rewardbench_2_ties_formula():
    scored = [
        ties("tied", 1, [3.0, 2.0], [1.0]),  # G 1, D 1
        ties("ref", 1, [5.0], [3.0]),  # G 2: smaller 1, not above D; margin tanh(1/1 - 1) = 0
        ties("tied", 2, [4.0, 3.5], [1.0]),  # G 2.5, D 0.5: preferred
        ties("ref", 2, [2.0], [3.0]),  # G -1: wrong; margin tanh(-1/0.5 - 1) = tanh(-3) = -0.995055
        ties("tied", 3, [1.0, 1.0], [2.0]),  # no ref: counts for accuracy_tied only, wrong
    ]
    results = BENCHMARKS["rewardbench-2"].aggregate(scored)
    assert {name: value["accuracy"] for name, value in results["subsets"].items()} == pytest.approx(
        {
            "Ties/accuracy_tied": 2 / 3,
            "Ties/accuracy_ref": 1 / 2,
            "Ties/preferred": 1 / 2,
            "Ties/preferred_hard": 0.0,
            "Ties/margin": (0 - 0.995055) / 2,
        },
        abs=1e-6,
    )
    # .30 * 2/3 + .30 * 1/2 + .20 * 1/2 + .20 * 0 + .01 * -0.497527 = 0.445025
    assert results["sections"]["Ties"] == results["score"] == pytest.approx(0.445025, abs=1e-6)


def test_rewardbench_2_ties_at_the_edges():
    # A constant scorer: G = D = 0, nothing is right, and tanh(0/0 - 1) counts 0.
    constant = [ties("tied", 1, [1.0, 1.0], [1.0]), ties("ref", 1, [1.0], [1.0])]
    assert BENCHMARKS["rewardbench-2"].aggregate(constant)["score"] == 0.0
    # Equal right ones far above the wrong one, D = 0: margin tanh(inf) = 1, the highest score there is.
    perfect = [ties("tied", 1, [9.0, 9.0], [1.0]), ties("ref", 1, [9.0], [1.0])]
    assert BENCHMARKS["rewardbench-2"].aggregate(perfect)["score"] == pytest.approx(1.01)
    # All wrong with a large negative ratio: -0.01, as on the leaderboard.
    worst = [ties("tied", 1, [1.0, 1.01], [9.0]), ties("ref", 1, [1.0], [9.0])]
    assert BENCHMARKS["rewardbench-2"].aggregate(worst)["score"] == pytest.approx(-0.01)
    unscored = [ties("tied", 1, [9.0, NAN], [1.0]), ties("ref", 1, [9.0], [1.0])]
    assert BENCHMARKS["rewardbench-2"].aggregate(unscored)["score"] == pytest.approx(0.3)  # ref alone is right


def styles(domain, number=0):
    return Comparison("P", chosen=["a"] * 3, rejected=["b"] * 3, id=f"{domain}/{number}", subset=domain)


def test_rm_bench_matrix_and_its_three_levels():
    scored = [
        (styles("chat", 0), [1.0, 2.0, 3.0, 0.0, 2.5, 4.0]),
        (styles("chat", 1), [5.0, 5.0, 5.0, 5.0, 1.0, 1.0]),  # equal is wrong
    ]
    cells = [one["accuracy"] for one in BENCHMARKS["rm-bench"].aggregate(scored)["subsets"].values()]
    assert cells == [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 1.0, 0.5]  # by rows: the style of the chosen
    sections = BENCHMARKS["rm-bench"].aggregate(scored)["sections"]
    assert (sections["chat/hard"], sections["chat/normal"]) == (0.5, 0.5)
    assert sections["chat/easy"] == pytest.approx(2 / 3)
    assert sections["chat"] == pytest.approx((1 / 2 + 1 / 2 + 2 / 3) / 3)


def test_rm_bench_averages_four_domains_and_pools_the_halves_of_safety():
    right, wrong = [1.0] * 3 + [0.0] * 3, [0.0] * 3 + [1.0] * 3
    scored = [(styles("chat"), right), (styles("safety-refuse"), right)]
    scored += [(styles("safety-response", i), wrong) for i in range(3)]
    results = BENCHMARKS["rm-bench"].aggregate(scored)
    assert (results["sections"]["chat"], results["sections"]["safety"]) == (1.0, 0.25)  # 1 of 4, not (1 + 0)/2
    assert results["score"] == 0.625
    assert results["missing"] == ["code", "math"]
    unscored = BENCHMARKS["rm-bench"].aggregate([(styles("chat"), [9.0, 9.0, 9.0, 0.0, 0.0, NAN])])
    assert unscored["score"] == 0.0 and unscored["num_unscored"] == 1


def test_judgebench_reports_micro_and_macro():
    scored = [(pair("knowledge", i), [1.0, 0.0]) for i in range(3)] + [(pair("math"), [0.0, 1.0])]
    results = BENCHMARKS["judgebench"].aggregate(scored)
    assert (results["score"], results["sections"]["micro"], results["sections"]["macro"]) == (0.75, 0.75, 0.5)


def test_ppe_scores_its_sampled_pairs_beside_auc_and_best_of_k():
    data = load_benchmark("ppe-math", SCHEMAS["ppe-math"][1])  # right: 0 and 3; official pairs (1, 0) and (3, 2)
    results = data.benchmark.aggregate([(data.comparisons[0], [0.1, 0.5, 0.2, 0.5])])
    assert results["subsets"]["pairwise"] == {"accuracy": 0.5, "num_items": 2}  # 0.1 > 0.5 no, 0.5 > 0.2 yes
    assert results["score"] == 0.5
    assert results["sections"]["auc"] == (0 + 0 + 0.5 + 1) / 4  # 0 against 1, 2; 3 against 1 (equal), 2
    assert results["sections"]["best_of_k"] == 0.5  # one of the two highest is right
    assert (results["sections"]["random"], results["sections"]["oracle"]) == (0.5, 1.0)


def test_rmb_is_right_only_if_the_best_beats_all_losers_and_averages_four_sets():
    def best_of_three(path):
        return Comparison("P", chosen="a", rejected=["b", "c"], id=path, subset=path)

    scored = [
        (best_of_three("BoN_set/Helpfulness/Chat/A"), [2.0, 1.0, 2.0]),  # ties with one: wrong
        (best_of_three("BoN_set/Harmlessness/S1"), [2.0, 1.0, 1.5]),
        (pair("Pairwise_set/Helpfulness/Chat/A", 0), [1.0, 0.0]),
        (pair("Pairwise_set/Helpfulness/Code/B", 1), [0.0, 1.0]),
        (pair("Pairwise_set/Harmlessness/S1", 2), [1.0, 0.0]),
    ]
    results = BENCHMARKS["rmb"].aggregate(scored)
    assert results["sections"] == {
        "Pairwise Helpfulness": 0.5, "Pairwise Harmlessness": 1.0, "BoN Helpfulness": 0.0, "BoN Harmlessness": 1.0,
    }  # fmt: skip
    assert results["score"] == 0.625
    assert results["subsets"]["Pairwise_set/Helpfulness/Code/B"]["accuracy"] == 0.0


def test_m_rewardbench_averages_languages():
    scored = [(pair("deu_Latn/math-prm", i), [1.0, 0.0]) for i in range(3)] + [(pair("fra_Latn/donotanswer"), [0, 1])]
    results = BENCHMARKS["m-rewardbench"].aggregate(scored)
    assert results["sections"] == {"deu_Latn": 1.0, "fra_Latn": 0.0}
    assert results["score"] == 0.5


def test_llmbar_averages_sets():
    scored = [(pair("Natural", i), [1.0, 0.0]) for i in range(3)]
    scored += [(pair("Manual"), [0.0, 1.0]), (pair("GPTOut"), [1.0, 0.0])]
    results = BENCHMARKS["llmbar"].aggregate(scored)
    assert results["score"] == pytest.approx(2 / 3)
    assert (results["sections"]["adversarial"], results["sections"]["micro"]) == (0.5, 0.8)
    processed = BENCHMARKS["llmbar"].aggregate([(pair("MTBench"), [1.0, 0.0])])
    assert "adversarial" not in processed["sections"] and "Natural" in processed["missing"]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_plain_mean_is_one_whose_score_moves_with_the_group_all_alone(name):
    benchmark = BENCHMARKS[name]
    part = {"rm-bench": "chat", "rewardbench-with-prior": "anthropic_hhh"}.get(name)
    data = load_benchmark(name, SCHEMAS[name][1], subset=part)
    means = benchmark.score_items([(c, -np.array(c.ranks, dtype=float)) for c in data.comparisons]).means()
    is_mean = "all" in means and benchmark.score({**means, "all": 0.25}) == 0.25
    is_mean &= all(benchmark.score({**means, g: 0.25}) == benchmark.score(means) for g in means if g != "all")
    assert benchmark.plain_mean == is_mean
    assert benchmark.best_of_k == (name.startswith("ppe-") and name != "ppe-human-preference")


def test_sections_and_groups_have_levels_and_constants_have_none():
    levels = {
        "preference": {"all": None, "s": "subset"},
        "rewardbench": {"Chat": "section", "Prior Sets (0.5 weight)": "section", "math-prm": "subset"},
        "rewardbench-2": {"Focus": "subset", "Ties": "subset", "Ties/margin": "ties"},
        "rm-bench": {"safety": "domain", "hard": "difficulty", "chat/hard": "domain and difficulty"},
        "judgebench": {"all": None, "micro": None, "macro": None, "math": "category"},
        "ppe-math": {"auc": "metric", "best_of_k": "metric", "random": None, "oracle": None},
        "rmb": {"BoN Helpfulness": "set", "BoN_set/Helpfulness/Chat/A": "scenario"},
        "m-rewardbench": {"deu_Latn": "language", "deu_Latn/math-prm": "language and subset"},
        "llmbar": {"all": None, "micro": None, "adversarial": None, "Natural": "set"},
    }
    for name, expected in levels.items():
        assert {one: BENCHMARKS[name].level(one) for one in expected} == expected
    assert BENCHMARKS["rm-bench"].level("chat/concise>markdown") == "styles"


# ── intervals of official scores ─────────────────────────────────────────────────────────────────────────────────────


def interval(benchmark, scored):
    items = benchmark.score_items(scored)
    return bootstrap_interval(
        items.credits, clusters=items.clusters, subsets=items.groups, aggregate=benchmark.score, num_samples=2000
    )


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_official_score_can_be_resampled(name):
    part = {"rm-bench": "chat", "rewardbench-with-prior": "anthropic_hhh"}.get(name)
    data = load_benchmark(name, SCHEMAS[name][1], subset=part)
    rng = np.random.default_rng(0)
    scored = []
    for i in range(40):
        for c in data.comparisons:
            metadata = {**c.metadata, "cluster": f"{c.metadata['cluster']}/{i}"}
            copy = Comparison(c.prompt, c.completions, c.ranks, id=f"{c.id}/{i}", subset=c.subset, metadata=metadata)
            scored.append((copy, rng.normal(size=len(c.completions)) - 0.5 * np.array(c.ranks)))
    found = interval(data.benchmark, scored)
    assert found["estimate"] == pytest.approx(data.benchmark.aggregate(scored)["score"])
    assert found["low"] < found["estimate"] < found["high"]
    assert found["num_clusters"] == len({cluster_of(c) for c, _ in scored})


def test_one_problem_in_six_languages_is_one_draw():
    # 50 problems, each all right or all wrong in six languages: the interval is that of 50 draws, sqrt(.25/50) = .0707
    scored = [
        (
            Comparison("P", chosen="a", rejected="b", id=f"{p}/{s}", subset=s, metadata={"cluster": f"hep:{p}"}),
            [float(p % 2), 0.5],
        )
        for p in range(50)
        for s in ("hep-cpp", "hep-go", "hep-java", "hep-js", "hep-python", "hep-rust")
    ]
    found = interval(BENCHMARKS["rewardbench"], scored)
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * 0.0707, rel=0.1)


def test_two_models_are_compared_on_the_official_score():
    comparisons = [one_of_four(subset, i) for subset in ("Math", "Focus") for i in range(50)]
    rng = np.random.default_rng(0)
    noise = [rng.normal(size=4) for _ in comparisons]
    better = [(c, n + np.array([2.0, 0, 0, 0])) for c, n in zip(comparisons, noise, strict=True)]
    worse = list(zip(comparisons, noise, strict=True))
    benchmark = BENCHMARKS["rewardbench-2"]
    a, b = benchmark.score_items(better), benchmark.score_items(worse)
    result = compare_models(
        a.credits, b.credits, clusters=a.clusters, subsets=a.groups, aggregate=benchmark.score, num_samples=2000
    )
    expected = benchmark.aggregate(better)["score"] - benchmark.aggregate(worse)["score"]
    assert result["difference"] == pytest.approx(expected)
    assert result["low"] > 0 and result["p_value"] < 0.001


# ── plain text and messages ──────────────────────────────────────────────────────────────────────────────────────────


def test_plain_prompts_become_messages_and_keep_everything_else():
    plain = Comparison("Who?", chosen=" I", rejected="You", id="7", subset="s", metadata={"cluster": "c"})
    messages = as_messages(plain)
    assert messages.prompt == [user("Who?")]
    assert messages.completions == [[assistant(" I")], [assistant("You")]]
    assert (messages.ranks, messages.id, messages.subset, messages.metadata) == ([0, 1], "7", "s", {"cluster": "c"})
    assert plain.prompt == "Who?"
    assert as_messages(messages) is messages


def test_hh_transcripts_become_their_turns():
    first, empty = load_benchmark("hh-rlhf-harmless", SCHEMAS["hh-rlhf-harmless"][1]).comparisons
    assert as_messages(first).prompt == [user("Hi")]
    assert as_messages(first).completions == [[assistant("Yes")], [assistant("")]]
    differing = as_messages(empty)
    assert differing.prompt == []
    assert differing.completions == [[user("Hi"), assistant("a")], [user("Ho"), assistant("b")]]
    long = Comparison(
        hh(("Human", "a"), ("Assistant", "b"), ("Human", "c"), ("Human", "d"), ("Assistant", "")), [" e", " f"]
    )
    assert as_messages(long).prompt == [user("a"), assistant("b"), user("c\n\nd")]


def test_completions_without_a_prompt_become_assistant_messages():
    assert as_messages(Comparison("", ["a", "b"])).completions == [[assistant("a")], [assistant("b")]]
    assert as_messages(Comparison("", ["a", "b"])).prompt == []


# ── published figures and real files ─────────────────────────────────────────────────────────────────────────────────


def by_length(comparisons):
    return [(c, np.array([float(len(text)) for text in c.completions])) for c in comparisons]


def test_rewardbench_v1_score_on_all_complete_rows_of_the_leaderboard(shared_data):
    complete = 0
    with (shared_data / "rewardbench_leaderboard" / "v1.csv").open() as file:
        for row in csv.DictReader(file):
            sections = {name: float(value) for name, value in row.items() if name not in ("model", "type") and value}
            if sections.get("Prior Sets (0.5 weight)") == 0.0:  # on the leaderboard 0 means that they were not run
                del sections["Prior Sets (0.5 weight)"]
            if {"Score", "Chat", "Chat Hard", "Safety", "Reasoning"} <= sections.keys():
                complete += 1
                assert rewardbench_score(sections) == pytest.approx(sections["Score"], abs=1.1e-4)
    assert complete == 172


def test_rewardbench_2_score_on_all_rows_of_the_leaderboard(shared_data):
    with (shared_data / "rewardbench_leaderboard" / "v2.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 197
    for row in rows:
        subsets = {name: float(row[name]) for name in SUBSETS}
        assert BENCHMARKS["rewardbench-2"].score(subsets) == pytest.approx(float(row["Score"]), abs=1.1e-4)


def test_judgebench_accuracies_of_three_published_models(shared_data):
    data = load_benchmark("judgebench", shared_data / "judgebench" / "gpt.jsonl")
    assert len(data.comparisons) == 350 and data.benchmark.aggregate(by_length(data.comparisons))["missing"] == []
    scores: dict[str, dict] = {}
    with (shared_data / "judgebench" / "reference_scores.csv").open() as file:
        for row in csv.DictReader(file):
            a, b = float(row["score_A"]), float(row["score_B"])
            scores.setdefault(row["model"], {})[row["pair_id"]] = [a, b] if row["label"] == "A>B" else [b, a]
    found = {
        model.split("/")[1]: 100 * data.benchmark.aggregate([(c, by_id[c.id]) for c in data.comparisons])["score"]
        for model, by_id in scores.items()
    }
    assert found == pytest.approx(
        {"GRM-Gemma-2B-rewardmodel-ft": 59.43, "Skywork-Reward-Llama-3.1-8B": 62.29, "internlm2-20b-reward": 63.43},
        abs=0.005,
    )


def test_llmbar_files(shared_data):
    data = load_benchmark("llmbar", shared_data / "llmbar")
    assert len(data.comparisons) == 419
    longer = {}
    for comparison, (chosen, rejected) in by_length(data.comparisons):
        longer.setdefault(comparison.subset, []).append((chosen > rejected) + 0.5 * (chosen == rejected))
    assert {name: len(values) for name, values in longer.items()} == {
        "GPTInst": 92, "GPTOut": 47, "Manual": 46, "Neighbor": 134, "Natural": 100,
    }  # fmt: skip
    found = {name: 100 * np.mean(values) for name, values in longer.items() if name != "GPTOut"}
    assert found == pytest.approx({"Neighbor": 11.9, "GPTInst": 13.0, "Manual": 18.5, "Natural": 56.5}, abs=0.05)


def test_rm_bench_chat_file_and_the_length_only_baseline(shared_data):
    data = load_benchmark("rm-bench", shared_data / "rm_bench" / "chat_filtered.json")
    assert len(data.comparisons) == 129 and {c.subset for c in data.comparisons} == {"chat"}
    sections = data.benchmark.aggregate(by_length(data.comparisons))["sections"]
    found = [100 * sections[f"chat/{level}"] for level in ("hard", "normal", "easy")]
    assert found == pytest.approx([2.6, 28.4, 81.1], abs=0.05)


def test_hh_harmless_file(shared_data):
    data = load_benchmark("hh-rlhf-harmless", shared_data / "hh_rlhf_harmless")
    assert len(data.comparisons) == 2312
    assert sum(c.prompt == "" for c in data.comparisons) == 5
    assert sum("" in [text.strip() for text in c.completions] for c in data.comparisons) == 4
    assert all(as_messages(c).completions[0][-1]["role"] == "assistant" for c in data.comparisons)


def test_rm_bench_and_dpo_demo_folders(shared_data):
    refuse = load_benchmark("rm-bench", shared_data / "rm_bench")
    assert len(refuse.comparisons) == 413
    demo = load_benchmark("preference", shared_data / "dpo_demo")
    assert len(demo.comparisons) == 300 and demo.comparisons[0].conversational
