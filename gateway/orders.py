"""Order entry of one account, step by step: admit, send to the shard, wait, render. Shared by REST and /ws/orders."""

import asyncio

import msgspec
from msgspec import Struct

from exchange import messages as m
from exchange.clock import monotonic_ns, wall_ns
from exchange.domain import ALL_INSTRUMENTS, NS_PER_MS, NS_PER_US, QuantityBasis, Reject
from exchange.limits import ORDER_DEADLINE_NS
from exchange.wire import decode_reply
from gateway import classic
from gateway.classic import Answer, ShardBody
from gateway.core import requests as q
from gateway.core.admission import ORDER_PREFIX, Change, Market, Stamp, Target
from gateway.core.auth import Principal
from gateway.core.pending import Settled
from gateway.core.problems import Problem, rejection
from gateway.links import ShardLink
from gateway.shards import Shards


class Page(Struct, frozen=True):
    """Which open orders: of one symbol or "" = all, those after an order id, at most `limit`."""

    symbol: str
    after: int
    limit: int


class Orders:
    """Every method answers, whatever happens; `started_ns` = monotonic time when the request was complete."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards

    async def submit(self, who: Principal, fields: q.OrderFields, started_ns: int) -> Answer:
        """Enter one order."""
        admitted = self._shards.admission.submit(fields, stamp_of(who, fields.deadline_ms))
        if isinstance(admitted, Problem):
            return classic.denied(admitted, fields.client_order_id)
        market, command = admitted
        deadline_ns = _deadline_ns(started_ns, fields.deadline_ms)
        settled = await self._shards.link(market).ask([command], deadline_ns, started_ns=started_ns)
        return self._conclude(settled, market, command.client_order_id, started_ns)

    async def batch(self, who: Principal, orders: list[q.OrderFields], started_ns: int) -> list[Answer]:
        """Enter many orders; one answer each, in their order."""
        split = self._shards.admission.split(orders, [stamp_of(who, order.deadline_ms) for order in orders])
        answers: dict[int, Answer] = {
            place: classic.denied(problem, orders[place].client_order_id) for place, problem in split.denied
        }
        deadline_ns = max(_deadline_ns(started_ns, order.deadline_ms) for order in orders)
        shares = list(split.by_shard.items())
        links = [self._shards.links[shard] for shard, _ in shares]
        all_settled = await asyncio.gather(
            *[
                link.ask(share[0], deadline_ns, started_ns=started_ns)
                for link, (_, share) in zip(links, shares, strict=True)
            ]
        )
        markets = self._shards.admission.markets
        latency_us = _latency_us(started_ns)
        for (_, (commands, places)), settled in zip(shares, all_settled, strict=True):
            for index, (command, place) in enumerate(zip(commands, places, strict=True)):
                assert isinstance(command, m.Submit)
                id_ = command.client_order_id
                if settled.problem is not None:
                    answers[place] = classic.denied(settled.problem, id_)
                else:
                    reply = decode_reply(settled.replies[index])
                    answers[place] = classic.outcome(reply, markets[command.instrument], id_, latency_us)
        return [answers[place] for place in range(len(orders))]

    async def cancel(self, who: Principal, id_: str, symbol: str, started_ns: int) -> Answer:
        """Cancel one order by order id, or by client order id and symbol."""
        target = self._shards.admission.target(id_, symbol)
        if isinstance(target, Problem):
            return classic.denied(target)
        deadline_ns = stamp_of(who, q.DEADLINE_MS).deadline_ns
        command = m.Cancel(who.account, target.market.index, target.order_id, target.target_id, deadline_ns)
        link = self._shards.link(target.market)
        settled = await link.ask([command], started_ns + ORDER_DEADLINE_NS, started_ns=started_ns)
        if settled.problem is not None:
            return classic.denied(settled.problem)
        return classic.canceled(decode_reply(settled.replies[0]), target.market, _latency_us(started_ns))

    async def amend(self, who: Principal, id_: str, fields: q.AmendFields, started_ns: int) -> Answer:
        """Change one order; what is not given is looked up in the shard first."""
        target = self._shards.admission.target(id_, fields.symbol)
        if isinstance(target, Problem):
            return classic.denied(target, fields.client_order_id)
        change = self._shards.admission.change(target.market, fields)
        if isinstance(change, Problem):
            return classic.denied(change, fields.client_order_id)
        if not change.reduce_by and (change.price is None or change.quantity is None):
            completed = await self._complete(who, target, change, started_ns)
            if isinstance(completed, Answer):
                return completed
            change = completed
        stamp = stamp_of(who, fields.deadline_ms)
        command = self._shards.admission.amend(target, change, fields.client_order_id, stamp)
        link = self._shards.link(target.market)
        settled = await link.ask([command], _deadline_ns(started_ns, fields.deadline_ms), started_ns=started_ns)
        return self._conclude(settled, target.market, command.client_order_id, started_ns)

    async def resolve(self, who: Principal, client_order_id: str, symbol: str, started_ns: int) -> Answer:
        """Make an unknown outcome known: what the id led to, or VOIDED: it never executed and never will."""
        market = self._shards.admission.market(symbol)
        if isinstance(market, Problem):
            return classic.denied(market, client_order_id)
        command = m.Resolve(who.account, market.index, client_order_id)
        settled = await self._shards.link(market).ask([command], started_ns + ORDER_DEADLINE_NS)
        if settled.problem is not None:
            return classic.denied(settled.problem, client_order_id)
        reply = decode_reply(settled.replies[0])
        if not isinstance(reply, m.Rejected) or reply.code in _NOT_RESOLVED:
            return classic.outcome(reply, market, client_order_id, _latency_us(started_ns))
        voided = reply.code == Reject.VOIDED
        problem = rejection(reply, market.instrument)
        body = {
            "success": True,
            "client_order_id": client_order_id,
            "status": "VOIDED" if voided else "REJECTED",
            "reason": problem.reason,
            "detail": problem.detail,
            "epoch": reply.epoch,
            "seq": reply.seq,
            "duplicate": reply.duplicate,
        }
        return Answer(body, 200, market.shard, reply.epoch, reply.seq, reply.duplicate)

    async def status(self, who: Principal, id_: str, symbol: str, started_ns: int) -> Answer:
        """One order by either id; a client order id without symbol is looked for in every shard."""
        admission = self._shards.admission
        if symbol or id_.startswith(ORDER_PREFIX):
            target = admission.target(id_, symbol)
            if isinstance(target, Problem):
                return classic.denied(target)
            links = [self._shards.link(target.market)]
            command = m.QueryOrder(who.account, target.market.index, target.order_id, target.target_id)
        else:
            links = list(self._shards.links.values())
            command = m.QueryOrder(who.account, ALL_INSTRUMENTS, 0, id_)
        all_settled = await self._ask_all(links, command, started_ns)
        problem = Problem("UNKNOWN_ORDER", "no such order of this account")
        for link, settled in zip(links, all_settled, strict=True):
            if settled.problem is not None:
                problem = unavailable(settled.problem)
                continue
            reply = decode_reply(settled.replies[0])
            if isinstance(reply, m.Order):
                body = classic.order_status(reply.info, admission.markets[reply.info.instrument])
                return Answer(body, 200, link.lane.shard, reply.epoch, reply.seq)
        return classic.denied(problem)

    async def open_orders(self, who: Principal, page: Page, started_ns: int) -> Answer:
        """Own open orders over all shards, ascending by order id."""
        index, links = ALL_INSTRUMENTS, list(self._shards.links.values())
        if page.symbol:
            market = self._shards.admission.market(page.symbol)
            if isinstance(market, Problem):
                return classic.denied(market)
            index, links = market.index, [self._shards.link(market)]
        command = m.QueryOpen(who.account, index, page.after, page.limit)
        infos: list[m.OrderInfo] = []
        more = False
        for settled in await self._ask_all(links, command, started_ns):
            if settled.problem is not None:
                return classic.denied(unavailable(settled.problem))
            reply = decode_reply(settled.replies[0])
            if isinstance(reply, m.Orders):
                infos += reply.infos
                more = more or reply.more
        infos.sort(key=lambda info: info.order_id)
        more = more or len(infos) > page.limit
        markets = self._shards.admission.markets
        orders = [classic.order_status(info, markets[info.instrument]) for info in infos[: page.limit]]
        return Answer({"success": True, "orders": orders, "more": more})

    async def cancel_all(self, who: Principal, symbol: str, started_ns: int) -> Answer:
        """Cancel all orders of the account, or those of one symbol."""
        market = self._scope(symbol)
        if isinstance(market, Problem):
            return classic.denied(market)
        command = m.MassCancel(who.account, market.index if market is not None else ALL_INSTRUMENTS)
        return classic.swept(await self._sweep(market, command, started_ns), {})

    async def arm_dead_man(self, who: Principal, timeout_ms: int, symbol: str, started_ns: int) -> Answer:
        """Cancel the account's orders unless this is repeated within the timeout; 0 disarms."""
        market = self._scope(symbol)
        if isinstance(market, Problem):
            return classic.denied(market)
        index = market.index if market is not None else ALL_INSTRUMENTS
        command = m.ArmDeadMan(who.account, index, timeout_ms * NS_PER_MS)
        return classic.swept(await self._sweep(market, command, started_ns), {"timeout_ms": timeout_ms})

    def _scope(self, symbol: str) -> Market | Problem | None:
        return self._shards.admission.market(symbol) if symbol else None

    async def _sweep(self, market: Market | None, command: m.Command, started_ns: int) -> list[ShardBody]:
        links = [self._shards.link(market)] if market is not None else list(self._shards.links.values())
        shards = []
        for link, settled in zip(links, await self._ask_all(links, command, started_ns, sweep=True), strict=True):
            if settled.problem is not None:
                status = "UNKNOWN" if settled.problem.reason == "UNKNOWN" else "NOT_EXECUTED"
                shards.append(ShardBody(link.lane.shard, status))
            else:
                reply = decode_reply(settled.replies[0])
                status = "NOT_EXECUTED" if isinstance(reply, m.Rejected) else "DONE"
                count = reply.count if isinstance(reply, m.Swept) else 0
                shards.append(ShardBody(link.lane.shard, status, count, reply.epoch, reply.seq))
        return shards

    async def _ask_all(
        self, links: list[ShardLink], command: m.Command, started_ns: int, *, sweep: bool = False
    ) -> list[Settled]:
        deadline_ns = started_ns + ORDER_DEADLINE_NS
        return await asyncio.gather(*[link.ask([command], deadline_ns, sweep=sweep) for link in links])

    async def _complete(self, who: Principal, target: Target, change: Change, started_ns: int) -> Change | Answer:
        """Fill in the price or the total quantity that the order has now."""
        query = m.QueryOrder(who.account, target.market.index, target.order_id, target.target_id)
        settled = await self._shards.link(target.market).ask([query], started_ns + ORDER_DEADLINE_NS)
        if settled.problem is not None:
            # Only a question was asked: whatever became of it, the amendment was never sent.
            return classic.denied(unavailable(settled.problem))
        reply = decode_reply(settled.replies[0])
        if isinstance(reply, m.Rejected):
            return classic.rejected(reply, target.market, "")
        assert isinstance(reply, m.Order)
        if change.price is None:
            return msgspec.structs.replace(change, price=reply.info.price)
        return msgspec.structs.replace(change, quantity=reply.info.quantity, basis=QuantityBasis.TOTAL)

    def _conclude(self, settled: Settled, market: Market, client_order_id: str, started_ns: int) -> Answer:
        if settled.problem is not None:
            return classic.denied(settled.problem, client_order_id)
        reply = decode_reply(settled.replies[0])
        return classic.outcome(reply, market, client_order_id, _latency_us(started_ns))


_NOT_RESOLVED = (Reject.UNKNOWN_INSTRUMENT, Reject.ACCOUNTS_FULL, Reject.WINDOW_FULL)
"""Rejections of the Resolve itself; any other one is the recorded answer of the id."""


def unavailable(problem: Problem) -> Problem:
    """A question has no unknown outcome: it was answered or it was not."""
    return Problem("UNAVAILABLE", problem.detail, ORDER_DEADLINE_NS) if problem.reason == "UNKNOWN" else problem


def stamp_of(who: Principal, deadline_ms: int) -> Stamp:
    """Until when the engine may execute, and the request's own time: what was signed, else now."""
    now_ns = wall_ns()
    return Stamp(who.account, now_ns + deadline_ms * NS_PER_MS, who.stamp_ns or now_ns)


def _latency_us(started_ns: int) -> int:
    return (monotonic_ns() - started_ns) // NS_PER_US


def _deadline_ns(started_ns: int, deadline_ms: int) -> int:
    return started_ns + deadline_ms * NS_PER_MS
