"""Every benchmark from its original schema: hub, files, folders and objects, and one line for what does not fit."""

import datasets
import numpy as np
import pytest
from benchmark_schemas import PKU, POST, SCHEMAS, SUMMARIES, VOTE, aggregate, write
from models import user

from rm_plugin.evaluation.benchmarks import BENCHMARKS, load_benchmark


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
    if name != "rewardbench-2":  # whose own rules are in test_rewardbench2.py
        assert aggregate(data.benchmark, best)["score"] == 1.0


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
    "plan-rewardbench": [("wyy1112/Plan-RewardBench", None, "train", None, None)],
    "themis-coderewardbench": [("project-themis/Themis-CodeRewardBench", "Full", "Full", None, None)],
    "rewardmath": [("RewardMATH/RewardMATH", None, "train", None, None)],
}
# fmt: on


# Cards of the data sets, and the repositories of RMB and LLMBar.
NUM_ROWS = {
    "rewardbench": 2985, "rewardbench-with-prior": 20139, "rewardbench-2": 1865, "m-rewardbench": 65987,
    "rm-bench": 1327, "judgebench": 350, "judgebench-claude": 270, "ppe-human-preference": 16038, "ppe-mmlu-pro": 512,
    "ppe-math": 512, "ppe-gpqa": 512, "ppe-mbpp-plus": 507, "ppe-ifeval": 512, "rmb": 20917, "llmbar": 419,
    "hh-rlhf-helpful": 2354, "hh-rlhf-harmless": 2312, "ultrafeedback-binarized": 2000, "helpsteer2": 1038,
    "helpsteer3": 2017, "shp": 18409, "summarize-from-feedback": 86086, "pku-saferlhf-better": 8211,
    "pku-saferlhf-safer": 8211, "plan-rewardbench": 1171, "themis-coderewardbench": 8866, "rewardmath": 4830,
    "preference": None,
}  # fmt: skip


def test_every_benchmark_knows_the_number_of_its_rows():
    assert {name: benchmark.num_rows for name, benchmark in BENCHMARKS.items()} == NUM_ROWS


@pytest.fixture
def hub(monkeypatch):
    """`hub(name)` puts the rows of a benchmark's schema on the hub, and gives the list of calls for them."""

    def put(name):
        calls = []

        def load_dataset(hub, config=None, *, split=None, data_dir=None, revision=None, streaming=False):
            calls.append((hub, config, split, data_dir, revision))
            rows = SCHEMAS["rewardbench" if split == "filtered" else name][1]
            more = {"rm-bench": {"domain": "chat"}, "plan-rewardbench": {"_lcp_bucket": "safety_refusal"}}.get(
                name, {}
            )
            return datasets.Dataset.from_list([{**row, **more} for row in rows])

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return calls

    return put


def test_every_benchmark_on_the_hub_has_its_call_here():
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
        ("plan-rewardbench", SCHEMAS["plan-rewardbench"][1][0], "split='given' is not known; use one of 'planning_"),
        (
            "plan-rewardbench",
            {"_lcp_bucket": "safety_refusal", "query": "q", "uuid": "u", "chosen": "a"},
            "column 'cho",
        ),
        ("themis-coderewardbench", {"prompt": "P", "chosen": "a", "rejected": "b"}, "column 'language' is missing"),
        ("rewardmath", SCHEMAS["rewardmath"][1][0], "problem 0 has 1 right and 0 wrong solutions in succession"),
        ("rewardmath", {**SCHEMAS["rewardmath"][1][0], "solution_type": "good"}, "solution_type='good' is not known"),
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


def test_where_no_row_fits_skipping_is_an_error_about_the_schema():
    with pytest.raises(
        ValueError, match="2 bad, the first: row 0: column 'num_correct' is missing .found: prompt, chosen"
    ):
        load_benchmark("rewardbench-2", SCHEMAS["rewardbench"][1], on_bad_row="skip")


def test_no_comparisons_is_an_error_with_the_counts():
    with pytest.raises(ValueError, match=r"no comparisons in a list \(1 rows, 1 without a preference, 0 bad\)"):
        load_benchmark("preference", [{"prompt": "P", "completions": ["a", "b"]}])


def test_a_limit_draws_the_same_sample_every_time_in_the_order_of_the_data():
    rows = [{"prompt": str(i), "chosen": "a", "rejected": "b"} for i in range(5)]
    data = load_benchmark("preference", rows, limit=2)
    drawn = [c.prompt for c in data.comparisons]
    assert len(drawn) == 2 and drawn == sorted(drawn) and data.num_rows == 5
    assert drawn == [c.prompt for c in load_benchmark("preference", rows, limit=2).comparisons]
    with pytest.raises(ValueError, match="limit=0, it must be at least 1"):
        load_benchmark("preference", rows, limit=0)


def test_a_subset_is_refused_where_the_rows_say_theirs():
    for name in set(SCHEMAS) - {"rm-bench", "llmbar", "rewardbench-with-prior", "plan-rewardbench"}:
        with pytest.raises(
            ValueError, match=f"subset='x' cannot be applied to {name}, whose rows say .* leave it out"
        ):
            load_benchmark(name, SCHEMAS[name][1], subset="x")
    rows = SCHEMAS["rewardbench"][1] + SCHEMAS["rewardbench-with-prior"][1]
    data = load_benchmark("rewardbench-with-prior", rows, subset="shp")
    assert [c.subset for c in data.comparisons] == ["alpacaeval-easy", "math-prm", "shp"]


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
    with pytest.raises(ValueError, match="has the splits .*; choose one"):
        load_benchmark("preference", tmp_path)
    data = load_benchmark("preference", tmp_path, split="test")
    assert [c.prompt for c in data.comparisons] == ["test"] and data.split == "test"


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
