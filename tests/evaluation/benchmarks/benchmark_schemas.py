"""Rows of every benchmark in its original schema, and what they mean; shared by the tests of benchmarks."""

import gzip
import json

import datasets
import numpy as np
from models import assistant, user

from rm_plugin.data.comparison import Comparison

NAN = float("nan")


def aggregate(benchmark, scored):
    """The official score of scored comparisons, and what it is made of."""
    items = benchmark.score_items(scored)
    means, counts = items.means(), items.counts()
    sections = {name: float(value) for name, value in benchmark.formula(means).items()}
    return {
        "score": sections.pop("score"),
        "sections": {name: value for name, value in sections.items() if not np.isnan(value)},
        "subsets": {group: {"accuracy": means[group], "num_items": counts[group]} for group in means},
        "missing": benchmark.missing({comparison.subset for comparison, _ in scored}, means),
    }


def pair(subset, number=0):
    return Comparison("P", chosen="a", rejected="b", id=f"{subset}/{number}", subset=subset)


def by_length(comparisons):
    """Comparisons scored by the length of their completions."""
    return [(c, np.array([float(len(text)) for text in c.completions])) for c in comparisons]


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

CALL = {"role": "tool_call", "content": "{'name': 'sky'}"}
RESPONSE = {"role": "tool_response", "name": "sky"}
HEADER = "<tool_environment>\n[]\n</tool_environment>\n<user_query>\nRain?\n</user_query>"
MATH = {
    "problem": "1 + 1?",
    "answer": "2",
    "solution_reference": "m",
    "subject": "Algebra",
    "level": 1,
    "problem_id": 0,
}

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
    "plan-rewardbench": (  # the trajectories part after the first call; tools and query stand in the first message
        "tool_irrelevance.jsonl",
        [{"query": "Rain?", "tools": [], "uuid": "u1",
          "chosen": {"messages": [user("Rain?"), CALL, {**RESPONSE, "content": "wet"}, assistant("Yes")]},
          "reject": {"messages": [user("Rain?"), CALL, {**RESPONSE, "content": "down"}, assistant("No"), user("Sure?"),
                                  assistant("No")]}}],
        [([user(HEADER), user("Rain?"), assistant("[TOOL_CALL] {'name': 'sky'}")],
          [[assistant("[TOOL_RESPONSE name=sky] wet"), assistant("Yes")]],
          [[assistant("[TOOL_RESPONSE name=sky] down"), assistant("No"), user("Sure?"), assistant("No")]],
          "tool_irrelevance")],
        [],
    ),
    "themis-coderewardbench": (
        "Full/Full-00000-of-00001.parquet",
        [{"id": "ECCO_1", "prompt": "Sort.", "chosen": "sorted(x)", "rejected": "bogo(x)", "language": "Python",
          "aspect": "Runtime_Efficiency", "subset": "ECCO"}],
        [("Sort.", ["sorted(x)"], ["bogo(x)"], "Runtime_Efficiency")],
        [],
    ),
    "rewardmath": (  # a solution per row, as steps
        "RewardMATH_direct.json",
        [{**MATH, "solution_type": "chosen", "eval_solution": ["1 + 1", "= 2"]},
         {**MATH, "solution_type": "rejected", "eval_solution": ["3"]},
         {**MATH, "solution_type": "rejected", "eval_solution": ["4"]},
         {**MATH, "solution_type": "rejected", "eval_solution": ["0"], "problem_id": 1},
         {**MATH, "solution_type": "chosen", "eval_solution": ["2"], "problem_id": 1}],
        [("1 + 1?", ["1 + 1\n= 2"], ["3", "4"], "Algebra"),
         ("1 + 1?", ["2"], ["0"], "Algebra")],
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
