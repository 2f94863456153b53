"""The simulated people: in a year with them every card finds its end, and the same sample tells the same story."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import func, select

from pipeline.application import Document, Submission
from pipeline.person import Agent
from pipeline.store import custody
from pipeline.store import tables as t
from producers.simulators.applicants import one_in, visit
from producers.simulators.outlet import Outlets

from .conftest import number


def counted(line: Any, column: Any) -> Counter[str]:
    with line.context.store.transaction() as tx:
        return Counter(tx.conn.execute(select(column)).scalars())


@pytest.mark.rule("WH-11")
def test_in_a_year_every_card_finds_its_holder_or_its_end(line: Any, submission: Callable[..., Submission]) -> None:
    line.supply(*(f"MO{n:03d}" for n in range(40)))
    guardian = Agent(name="王样例", id_type="resident_id", id_number=number(901), relation="母亲")
    proxy = Agent(name="李样例", id_type="resident_id", id_number=number(902), relation="兄弟")
    papers = (Document(type="application_form"), Document(type="mandate"))
    people = [submission(n) for n in range(1, 23)]
    people += [submission(31, guardian=guardian, collect_by="guardian"), submission(32, proxy=proxy, documents=papers)]
    people += [submission(33, unit_code="U1", collect_by="unit")]
    people += [submission(34, priority="urgent", window="information_centre")]
    ids = line.accept(*people)
    line.run()
    simulated = Outlets(context=line.context, comes=one_in(2, "comes"), damaged=one_in(9, "broken"))
    simulated.seal()
    simulated.collect_at_centre()
    for days in (1, 1, 1, 1, 200, 1, 1, 1, 1, 1, 1, 1, 800, 1):
        simulated.ship()
        simulated.receive()
        line.later(days=days)
        simulated.give_notices()
        simulated.collect()
        simulated.send_back()
        if days == 1:
            simulated.reissue()
        line.run()
        simulated.seal()
        simulated.destroy()
        places = line.balanced()
    status = Counter(line.status(i) for i in ids)
    assert set(status) == {"collected", "destroyed"}
    assert places["holder"] == status["collected"] > 13
    assert places["destroyed"] == sum(places.values()) - places["holder"] > status["destroyed"] > 0
    taken = counted(line, t.hand_overs.c.taken_by)
    assert set(taken) == {"holder", "guardian", "proxy", "unit"}
    assert taken.total() > status["collected"], "somebody was given the wrong card, and at once the right one"
    assert set(counted(line, t.discrepancies.c.kind)) == {"missing", "damaged"}
    assert set(counted(line, t.discrepancies.c.state)) == {"settled"}
    assert {"paid", "waived"} <= set(counted(line, t.fees.c.status))
    with line.context.store.transaction() as tx:
        reissued = tx.conn.execute(select(func.count()).where(t.transitions.c.to == "reissued")).scalar_one()
        assert reissued > 0
        assert custody.verify(tx).broken == ()


def test_who_comes_with_what_is_told_by_the_acceptance_number(line: Any, submission: Callable[..., Submission]) -> None:
    ids = line.accept(*(submission(n) for n in range(1, 31)))
    apps = [line.application(i) for i in ids]
    policy = line.context.policies.of("420100")
    first, again = ([visit(app, policy) for app in apps] for _ in "12")
    assert first == again
    kinds = Counter(one.taken_by for one in first)
    assert kinds["holder"] > kinds["proxy"] > 0
    assert all(one.papers and one.agent for one in first if one.taken_by == "proxy")
