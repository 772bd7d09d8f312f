"""What a run tells of all cases together: problems.json, qc.html, and why it ends with an error."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cache.errors import SourceError
from cache.files import remove
from stages.preprocess.outcome import Outcome
from stages.preprocess.policy import RulesParams
from stages.preprocess.problems import Problem, write_problems
from stages.preprocess.qc import Card, write_qc
from stages.preprocess.rules.dataset import same_ct
from stages.preprocess.stored_picture import read_picture

TOLD = 10  # problems in an error's message; all are in problems.json


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes:
        cases: ids of the cases that passed; unless it was a mere check, they are in the store.
        problems: all that was found.
        kept: how many of the cases were already there, unchanged.
        refusal: why there is no manifest; None if all is well.
        bugs: tracebacks of errors that are no faults of the data, each with its case.
    """

    cases: list[str]
    problems: list[Problem]
    kept: int
    refusal: SourceError | None
    bugs: list[str]


def without_copies(outcomes: list[Outcome], rules: RulesParams) -> list[Outcome]:
    """The outcomes in the order of their ids, those with a CT seen before marked by its rule."""
    first: dict[str, tuple[str, str]] = {}
    checked = []
    for outcome in sorted(outcomes, key=lambda one: one.files.case_id):
        files = outcome.files
        if outcome.facts is not None and not outcome.is_out:
            seen = first.setdefault(outcome.facts.ct_digest, (files.case_id, files.patient_id))
            finding = same_ct(files.ct, files.patient_id, seen)
            if finding is not None:
                problem = Problem.of(finding, files.case_id, rules.policy(finding.rule))
                outcome = replace(outcome, problems=[*outcome.problems, problem])
        checked.append(outcome)
    return checked


def problems_of(outcome: Outcome) -> list[Problem]:
    """A case's problems; of one that is left out, each of its two files has a line."""
    named = [Path(problem.path) for problem in outcome.problems]
    files = [outcome.files.ct, outcome.files.label] if outcome.is_out else []
    unnamed = [path for path in files if not any(one.is_relative_to(path) for one in named)]
    case_id = outcome.files.case_id
    fact = f"belongs to case {case_id}, which is left out"
    return outcome.problems + [
        Problem.ignored("case_left_out", case_id, path, fact) for path in unnamed
    ]


def write_pages(
    out: Path, pictures: Path, outcomes: list[Outcome], problems: list[Problem]
) -> None:
    """Write problems.json and qc.html, and drop the pictures that no case has any more."""
    labels = {one.files.case_id: one.label_counts for one in outcomes if one.label_counts}
    write_problems(out.parent / "problems.json", problems, labels)
    write_qc(out.parent / "qc.html", _cards(outcomes, pictures), problems)
    shown = {one.facts.picture for one in outcomes if one.facts}
    for picture in pictures.glob("*"):
        if picture.name not in shown:
            remove(picture)


def summary_of(src: Path, out: Path, outcomes: list[Outcome], problems: list[Problem]) -> Summary:
    """What a run did."""
    good = [one for one in outcomes if one.facts is not None and not one.is_out]
    return Summary(
        [one.files.case_id for one in good],
        problems,
        sum(one.was_there for one in good),
        _refusal(src, out, bool(good), problems),
        [f"case {one.files.case_id}:\n{one.bug}" for one in outcomes if one.bug],
    )


def _refusal(src: Path, out: Path, has_good: bool, problems: list[Problem]) -> SourceError | None:
    """Why there is to be no manifest: no case passed, or a rule is broken that must not be."""
    errors = [problem for problem in problems if problem.severity == "error"]
    if has_good and not errors:
        return None
    what = "no case can be used"
    if errors:
        what = f"{len(errors)} findings under rules whose policy is error"
    left_out = errors or [problem for problem in problems if problem.severity == "skipped"]
    reasons = "".join(f"\n  {problem.path}: {problem.fact}" for problem in left_out[:TOLD])
    return SourceError(src, f"{what}:{reasons}", f"mend what {out.parent / 'problems.json'} names")


def _cards(outcomes: Iterable[Outcome], pictures: Path) -> Iterator[Card]:
    """The cases for the page, those with problems first."""
    for outcome in sorted(outcomes, key=lambda one: (not one.problems, one.files.case_id)):
        files, facts = outcome.files, outcome.facts
        if facts is None:
            counts = outcome.label_counts
            yield Card(files.case_id, files.patient_id, b"", None, None, None, counts)
            continue
        picture = read_picture(pictures / facts.picture) or b""
        yield Card(
            files.case_id,
            files.patient_id,
            picture,
            facts.liver_ml,
            facts.shape_zyx,
            facts.spacing_zyx_mm,
            outcome.label_counts,
            facts.source_shape_zyx,
            facts.source_spacing_zyx_mm,
        )
