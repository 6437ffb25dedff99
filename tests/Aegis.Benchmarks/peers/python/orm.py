"""The plain service's transition through the async ORM of SQLAlchemy: a session and a transaction for each."""

import argparse
import asyncio
import json
import os
import secrets
import sys
import time

from sqlalchemy import DDL, BigInteger, Column, DateTime, Identity, LargeBinary, SmallInteger, Text, UniqueConstraint
from sqlalchemy import event, func, select
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import declarative_base, sessionmaker

MOVES_PER_WORKFLOW = 100
RUNNING = 1
SNAPSHOT_BYTES = 1024

# Begins every id of this run, so that runs on one database never meet.
RUN = secrets.token_hex(6)

Base = declarative_base()


# The tables are those of schema.sql.
class Workflow(Base):
    __tablename__ = "workflow"

    workflow_id = Column(Text, primary_key=True)
    workflow_type = Column(Text, nullable=False)
    state = Column(Text, nullable=False)
    status = Column(SmallInteger, nullable=False)
    sequence = Column(BigInteger, nullable=False)
    created_at = Column(DateTime(timezone=True), nullable=False, server_default=func.now())
    updated_at = Column(DateTime(timezone=True), nullable=False, server_default=func.now(), onupdate=func.now())


event.listen(Workflow.__table__, "after_create", DDL("ALTER TABLE workflow SET (fillfactor = 50)"))


class Record(Base):
    __tablename__ = "record"
    __table_args__ = (
        UniqueConstraint("workflow_id", "sequence", name="record_is_once_in_its_history"),
        UniqueConstraint("workflow_id", "request_id", name="record_answers_one_request"),
    )

    log_index = Column(BigInteger, Identity(always=True), primary_key=True)
    workflow_id = Column(Text, nullable=False)
    sequence = Column(BigInteger, nullable=False)
    from_state = Column(Text, nullable=False)
    to_state = Column(Text, nullable=False)
    status = Column(SmallInteger, nullable=False)
    actor = Column(Text, nullable=False)
    reason = Column(Text, nullable=False)
    request_id = Column(Text)
    recorded_at = Column(DateTime(timezone=True), nullable=False, server_default=func.now())


class Snapshot(Base):
    __tablename__ = "snapshot"

    workflow_id = Column(Text, primary_key=True)
    sequence = Column(BigInteger, primary_key=True, autoincrement=False)
    content_type = Column(Text, nullable=False)
    content = Column(LargeBinary, nullable=False)


def snapshot_of(step):
    """A state that is 1 KiB as JSON, and another at every step."""
    empty = json.dumps({"step": step, "text": ""})
    return json.dumps({"step": step, "text": "x" * (SNAPSHOT_BYTES - len(empty))}).encode()


async def start(sessions, workflow_id):
    async with sessions() as session, session.begin():
        session.add(Workflow(workflow_id=workflow_id, workflow_type="order", state="S0", status=RUNNING, sequence=0))


async def move(sessions, workflow_id, from_state, to_state, request_id, content):
    """Moves a workflow, and returns the place of the record in the log, also when the request was answered before."""
    async with sessions() as session, session.begin():
        known = await session.scalar(select(Record).filter_by(workflow_id=workflow_id, request_id=request_id))
        if known is not None:
            return known.log_index
        workflow = await session.scalar(select(Workflow).filter_by(workflow_id=workflow_id).with_for_update())
        if workflow is None or workflow.state != from_state:
            raise ValueError(f"{workflow_id} is not in state {from_state}")
        workflow.state = to_state
        workflow.status = RUNNING
        workflow.sequence += 1
        record = Record(
            workflow_id=workflow_id, sequence=workflow.sequence, from_state=from_state, to_state=to_state,
            status=RUNNING, actor="caller", reason="", request_id=request_id)
        snapshot = Snapshot(
            workflow_id=workflow_id, sequence=workflow.sequence, content_type="application/json", content=content)
        session.add_all([record, snapshot])
    return record.log_index


async def measure(sessions, callers, seconds, warm):
    """Counts the transitions of the seconds after the warm ones."""
    begin = time.monotonic() + warm
    end = begin + seconds

    async def call(caller):
        count = 0
        n = 0
        while time.monotonic() < end:
            workflow_id = f"{RUN}-{caller}-{n}"
            n += 1
            await start(sessions, workflow_id)
            for step in range(MOVES_PER_WORKFLOW):
                await move(sessions, workflow_id, f"S{step}", f"S{step + 1}", str(step), snapshot_of(step))
                now = time.monotonic()
                if now >= end:
                    break
                if now >= begin:
                    count += 1
        return count

    return sum(await asyncio.gather(*(call(caller) for caller in range(callers))))


async def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", nargs="?", choices=["put"], default="put")
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--warm", type=float, default=2)
    options = parser.parse_args()

    url = make_url(os.environ["PEER_DATABASE"]).set(drivername="postgresql+asyncpg")
    engine = create_async_engine(url, pool_size=options.callers, max_overflow=0)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    # What was written is not read again after the commit.
    sessions = sessionmaker(engine, class_=AsyncSession, expire_on_commit=False)
    count = await measure(sessions, options.callers, options.seconds, options.warm)
    await engine.dispose()
    print(json.dumps({"count": count, "seconds": options.seconds}))


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
