"""Kill tests: builds that are killed at random instants of all stages, each resumed, end like one that nothing disturbed.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/kill.py [--kills N] [--seed N] [--chain N] [--keep DIR] [--save FILE]

``multistream build`` runs over ingest, convert, synthesis (against an endpoint on loopback that answers the same request with
the same words), data set, training and control (a model of two layers) and evaluation. The whole process group gets
``kill -9`` at a random instant of the work that is left of a stage; stages are dealt in turn. A resume may be killed again,
later in the work, ``--chain`` times; then one runs to its end. Told of every kill: stage, shard and moment, read from the disk
(``landing.py``), and how long the process had lived. Looked at:

* after every kill: no process of the group lives; what has a final name and is finished (its note or manifest is there) has the
  bytes of the undisturbed build and is the very file (inode, time) that it was before; no request for a stored answer was made;
* after the build's end: the same files with the same bytes as undisturbed (but for seconds and speeds), nothing temporary, in
  the output or in TMPDIR; every finished file is still the one that was finished; training went on from its last saved state.

Exit code 1 if any of that failed.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import corpus, landing  # noqa: E402
from benchmarks.victim import Size, Victim, group_of, kill  # noqa: E402
from pipeline import folders  # noqa: E402
from pipeline.manifest import need_manifest, sha256_file  # noqa: E402


@dataclass
class Kill:
    """One kill: ``aimed`` at a stage, where it landed, ``seconds`` after the process began. ``finished``: files that were
    finished then; ``redone``: finished files that were written again by a later process; ``asked_again``: requests for
    stored answers; ``written_again``: files with final names that no note or manifest had promised yet, and that were
    written once more."""

    number: int
    build: int
    aimed: str
    workers: int
    stage: str = ""
    shard: str = ""
    moment: str = ""
    seconds: float = 0.0
    finished: int = 0
    redone: int = 0
    asked_again: int = 0
    written_again: int = 0
    identical: bool = False
    wrong: list[str] = field(default_factory=list)


@dataclass
class _Campaign:
    """One build and its kills: what lay there after each of them, and what was finished."""

    victim: Victim
    chance: random.Random
    kills: list[Kill] = field(default_factory=list)
    trees: list[landing.Tree] = field(default_factory=list)
    finished: list[dict[str, str]] = field(default_factory=list)
    saved: dict[str, int] = field(default_factory=dict)

    def kill_in(self, done: Kill) -> bool:
        """Starts the build and kills it; False if it was over before."""
        victim = self.victim
        before, asked, stored = landing.tree(victim.out), victim.asked(), victim.stored()
        started = time.monotonic()
        process = victim.start(done.workers)
        alive = victim.wait_for_instant(process, done.aimed, self.chance)
        done.seconds = round(time.monotonic() - started, 3)
        kill(process)
        found = landing.landing(victim.out, victim.whole, victim.stages, before, victim.size.steps)
        if not alive or found.moment == "over":
            return False
        done.stage, done.shard, done.moment = found.stage, found.shard, found.moment
        done.asked_again = victim.asked_again(asked, stored)
        if living := group_of(process.pid):
            done.wrong.append(f"{len(living)} processes of the group are alive")
        if "Traceback" in (errors := victim.errors()):
            done.wrong.append(f"a traceback before the kill: {errors[-300:]}")
        in_training = done.stage in (folders.CHECKPOINT, folders.CONTROL)
        if in_training and not (victim.out / done.stage / "multistream.json").exists():
            self.saved[done.stage] = landing.saved_step(victim.out, done.stage)
        self.kills.append(done)
        self.look()
        return True

    def end(self) -> None:
        """Resumes once more, to the end, and looks at everything."""
        victim = self.victim
        asked, stored = victim.asked(), victim.stored()
        victim.finish(victim.start(self.chance.choice((1, 2))))
        if not self.kills:
            return
        self.kills[-1].asked_again += victim.asked_again(asked, stored)
        self.look()
        wrong = victim.differences()
        for stage, step in self.saved.items():
            told = need_manifest(victim.out / stage).notes["resumed_from_step"]
            if told != step:
                wrong.append(f"{stage} went on from step {told}, saved was {step}")
        now = self.trees[-1]
        for done, then, promised in zip(self.kills, self.trees, self.finished, strict=False):
            again = {path for path, stamp in then.items() if now.get(path) != stamp} - set(promised)
            done.written_again = sum(p.endswith(".parquet") and not Path(p).name.startswith(".") for p in again)
            done.wrong += wrong
            done.identical = not wrong

    def look(self) -> None:
        """What was finished at each kill is still the same file, and has the bytes that it has in the undisturbed build."""
        victim = self.victim
        now, promised = landing.tree(victim.out), landing.finished(victim.out, victim.stages)
        for done, then, names in zip(self.kills, self.trees, self.finished, strict=False):
            changed = sorted(p for p in names if now.get(p) != then[p])
            done.redone = max(done.redone, len(changed))
            if changed:
                done.wrong.append(f"finished and written again: {', '.join(changed[:5])}")
        last = self.kills[-1]
        last.finished = last.finished or len(promised)
        for path, promise in promised.items():
            known = victim.promised.get(path) == promise or Path(path).name in landing.VOLATILE
            if not known or (promise != sha256_file(victim.out / path)):
                last.wrong.append(f"{path} is finished and is not what the undisturbed build has")
        self.trees.append(now)
        self.finished.append(promised)


def deal(stages: Sequence[str], chance: random.Random) -> Iterator[str]:
    """Stages in random order, each as often as every other."""
    while True:
        yield from chance.sample(list(stages), len(stages))


def killed_build(victim: Victim, chance: random.Random, build: int, aims: Sequence[str], first: int = 0) -> list[Kill]:
    """One build that is killed in each of the stages ``aims``, resumed every time, and left alone at last. The kills
    that found it still at work; prints one line each."""
    campaign = _Campaign(victim, chance)
    for aim in aims:
        if not landing.is_finished(victim.out, aim):
            campaign.kill_in(Kill(first + len(campaign.kills), build, aim, chance.choice((1, 2))))
    campaign.end()
    victim.clear()
    for done in campaign.kills:
        place = f"{done.stage}: {done.moment} {done.shard}"
        print(f"{done.number:3d}  build {build}  {done.seconds:6.2f} s  {place}  {'; '.join(done.wrong)}", flush=True)
    return campaign.kills


def run(victim: Victim, chance: random.Random, kills: int, chain: int, aims: Sequence[str] | None = None) -> list[Kill]:
    """Builds again and again until there were so many kills, at most ``chain`` a build. ``aims``: the stages to aim at."""
    done: list[Kill] = []
    stages, build = deal(aims or victim.stages, chance), 0
    while len(done) < kills:
        hand = [next(stages) for _ in range(min(chain, kills - len(done)))]
        done += killed_build(victim, chance, build, sorted(hand, key=victim.stages.index), len(done))
        build += 1
    return done


def summary(kills: Sequence[Kill]) -> dict[str, Any]:
    """Counts over all kills. ``in_a_shard_share``: of kills that found a shard begun and not finished; ``amid_share``:
    those of them before its files were written whole."""
    amid = sum(k.moment == "amid" for k in kills)
    publishing = sum(k.moment == "publishing" for k in kills)
    return {
        "kills": len(kills),
        "builds": len({k.build for k in kills}),
        "in_a_shard_share": round((amid + publishing) / len(kills), 3),
        "amid_share": round(amid / len(kills), 3),
        "identical": sum(k.identical for k in kills),
        "redone": sum(k.redone for k in kills),
        "asked_again": sum(k.asked_again for k in kills),
        "with_anything_wrong": sum(bool(k.wrong) for k in kills),
        "moments": dict(Counter(k.moment for k in kills).most_common()),
        "stages": {
            s: dict(Counter(k.moment for k in kills if k.stage == s)) for s in dict.fromkeys(k.stage for k in kills)
        },
        "written_again_before_their_manifest": dict(
            sum((Counter({k.stage: k.written_again}) for k in kills), Counter())
        ),
    }


def main() -> None:
    """Parses the command line, kills, tells."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--chain", type=int, default=5, help="most kills of one build")
    parser.add_argument("--stages", nargs="+", choices=folders.STAGES, help="aim only at these")
    parser.add_argument("--keep", type=Path, help="work in this folder, and leave it")
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.keep or Path(scratch)
        with Victim(folder / "kill", Size()) as victim:
            victim.measure()
            print("undisturbed:", {stage: round(seconds, 2) for stage, seconds in victim.spans.items()}, flush=True)
            kills = run(victim, random.Random(args.seed), args.kills, args.chain, args.stages)
            told = {"size": asdict(victim.size), "stage_seconds": {s: round(v, 3) for s, v in victim.spans.items()}}
    told |= summary(kills)
    print(json.dumps(told, indent=1))
    if args.save:
        result = {**corpus.machine("benchmarks/kill.py " + " ".join(sys.argv[1:])), **told}
        args.save.write_text(json.dumps({**result, "rows": [asdict(k) for k in kills]}, indent=1) + "\n")
    if any(k.wrong or k.redone or k.asked_again for k in kills):
        sys.exit(1)


if __name__ == "__main__":
    main()
