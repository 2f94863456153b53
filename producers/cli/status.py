"""`zhika status`: what stands where."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from rich.table import Table

from config.wiring import Installation
from pipeline.services import encoders
from pipeline.store import control, outbox, stock, views
from pipeline.store.types import Record
from producers.cli.encoder import as_row, table_of

_DIRECTIONS = {"out": "→ 网点 out", "back": "← 中心 back"}
UP_S = 10.0
"""A role that gave no sign of life for so long is down."""


USE = timedelta(days=7)
"""How far back the use of blanks is looked at, to tell how long those in stock last."""


def snapshot(installation: Installation, *, version: str) -> dict[str, Any]:
    """The figures, as `-o json` prints them."""
    now = installation.clock.now()
    with installation.store.transaction() as tx:
        roles = control.roles(tx)
        stages = views.stages(tx)
        statuses = views.by_status(tx)
        in_time, late = views.deadlines(tx, now=now)
        blanks = views.blanks(tx)
        used = stock.used_since(tx, now - USE)
        readers = encoders.listing(tx, now=now)
        calls = views.calls(tx)
        rows, since = outbox.waiting(tx)
        bundles = views.bundles(tx)
        places = views.cards_by_place(tx)
        differences = views.discrepancies(tx)
        counter = views.counter(tx)
        deliveries = views.deliveries(tx)
        channels = views.channels(tx)
    up = [
        {"role": r.role, "up": (now - r.beat_at).total_seconds() < UP_S, "since": r.since, "pid": r.pid} for r in roles
    ]
    return {
        "mode": "embedded" if installation.settings.embedded else "full",
        "version": version,
        "at": now,
        "ready": bool(up) and all(role["up"] for role in up),
        "roles": up,
        "stages": [
            {
                "stage": s.stage,
                "lane": s.lane,
                "ready": s.ready,
                "running": s.running,
                "waiting": s.waiting,
                "held": s.held,
                "oldest_s": round((now - s.oldest).total_seconds(), 1) if s.oldest else None,
                "paused": s.paused,
            }
            for s in stages
        ],
        "applications": statuses,
        "deadlines": {"in_time": in_time, "late": late},
        "encoders": [as_row(reader) for reader in readers],
        "blanks": _blanks(blanks, used),
        "bank": {"pending": calls.get("pending", 0), "unknown": calls.get("unknown", 0), "done": calls.get("done", 0)},
        "bundles": [{"direction": b.direction, "status": b.status, "bundles": b.n} for b in bundles],
        "custody": places,
        "discrepancies": differences,
        "counter": counter,
        "deliveries": deliveries,
        "channels": channels,
        "outbox": {"rows": rows, "lag_s": round((now - since).total_seconds(), 1) if since else 0.0},
    }


def _blanks(rows: Sequence[Record], used: Mapping[tuple[str, str], int]) -> list[dict[str, Any]]:
    """Blanks by type and location. What lies at a station lasts by that station's use, what lies in stock by everybody's."""
    places: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for row in rows:
        places[row.type, row.location][row.state] = row.n
    stations = {station for _, station in used}
    told = []
    for (kind, location), states in places.items():
        there = {location} if location in stations else stations
        daily = sum(n for (of, station), n in used.items() if of == kind and station in there) / USE.days
        stocked = states.get("stocked", 0)
        days = round(stocked / daily, 1) if daily else None
        told.append({"type": kind, "location": location, "stocked": stocked, "days_left": days, "states": states})
    return told


def render(seen: dict[str, Any]) -> list[Any]:
    """The same for a terminal."""
    stages = Table(
        "环节 stage",
        "通道 lane",
        "就绪 ready",
        "处理中 running",
        "等待 waiting",
        "挂起 held",
        "最久 oldest",
        title="环节 Stages",
    )
    for s in seen["stages"]:
        if s["ready"] or s["running"] or s["waiting"] or s["held"] or s["paused"]:
            name = f"{s['stage']} ⏸" if s["paused"] else s["stage"]
            oldest = f"{s['oldest_s']:.0f} s" if s["oldest_s"] is not None else ""
            stages.add_row(
                name, s["lane"], str(s["ready"]), str(s["running"]), str(s["waiting"]), str(s["held"]), oldest
            )
    statuses = Table("状态 status", "申领 applications", title="申领 Applications")
    for name, count in seen["applications"].items():
        statuses.add_row(name, str(count))
    roles = Table("角色 role", "", "进程 pid", title="进程 Roles")
    for role in seen["roles"]:
        roles.add_row(role["role"], "✓ up" if role["up"] else "✗ down", str(role["pid"]))
    blanks = Table("卡型 type", "位置 location", "可用 stocked", "天数 days left", "其他 others", title="空白卡 Blanks")
    for row in seen["blanks"]:
        others = ", ".join(f"{state} {n}" for state, n in row["states"].items() if state != "stocked")
        days = "" if row["days_left"] is None else str(row["days_left"])
        blanks.add_row(row["type"], row["location"], str(row["stocked"]), days, others)
    bundles = Table("方向 direction", "状态 status", "卡箱 bundles", title="卡箱 Bundles")
    for row in seen["bundles"]:
        bundles.add_row(_DIRECTIONS[row["direction"]], row["status"], str(row["bundles"]))
    places = Table("地点 place", "卡 cards", title="卡片所在 Custody")
    for place, count in seen["custody"].items():
        places.add_row(place, str(count))
    tail = (
        f"银行 bank: {seen['bank']['unknown']} 未知 unknown, {seen['bank']['pending']} 待回 pending"
        f" · 事件 events: {seen['outbox']['rows']} · 超期 late: {seen['deadlines']['late']}\n"
        f"柜台 counter: {seen['counter']['notices']} 已通知 told, {seen['counter']['hand_overs']} 已领取 handed over, "
        f"{seen['counter']['undone']} 撤销 undone"
        f" · 差异 discrepancies: {seen['discrepancies'].get('open', 0)} 未结 open"
        f" · 推送 webhooks: {seen['deliveries'].get('delivered', 0)} 已送达 delivered, "
        f"{seen['deliveries'].get('waiting', 0)} 待送 waiting, {seen['deliveries'].get('exhausted', 0)} 放弃 exhausted"
    )
    return [stages, statuses, roles, table_of(seen["encoders"]), blanks, bundles, places, tail]
