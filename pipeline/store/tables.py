"""The schema. Constraints hold the invariants: a bug in the code meets the database before it meets a cardholder.

Personal data stands only in columns named `sealed` (AES-GCM, see `sealing`); people are found by `blind_index`.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from pipeline.states import LIVE, STAGES, STATUSES
from pipeline.store.types import BigId, Instant, Json

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


data_keys = Table(
    "data_keys",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("wrapped", LargeBinary, nullable=False),
    Column("created_at", Instant, nullable=False),
)

persons = Table(
    "persons",
    metadata,
    Column("id", Text, primary_key=True),
    Column("blind_index", LargeBinary, nullable=False, unique=True),
    Column("sealed", LargeBinary, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("erased_at", Instant),
)

batches = Table(
    "batches",
    metadata,
    Column("id", Text, primary_key=True),
    Column("source", Text, nullable=False),
    Column("file_sha256", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("rows", Integer, nullable=False, default=0),
    Column("next_row", Integer, nullable=False, default=0),
    Column("accepted", Integer, nullable=False, default=0),
    Column("rejected", Integer, nullable=False, default=0),
    Column("duplicate", Integer, nullable=False, default=0),
    Column("created_at", Instant, nullable=False),
    Column("completed_at", Instant),
    UniqueConstraint("source", "file_sha256"),
    _one_of("status", ("uploading", "validating", "awaiting_commit", "processing", "completed", "failed", "cancelled")),
    CheckConstraint("status <> 'completed' OR accepted + rejected + duplicate = rows", name="adds_up"),
)

batch_errors = Table(
    "batch_errors",
    metadata,
    Column("batch_id", Text, ForeignKey("batches.id"), primary_key=True),
    Column("row", Integer, primary_key=True),
    Column("n", Integer, primary_key=True),
    Column("column", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("zh", Text, nullable=False),
    Column("en", Text, nullable=False),
)

# What was asked for: written once. Its life is `applications`, a slim row that every step rewrites.
submissions = Table(
    "submissions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("source", Text, nullable=False),
    Column("external_ref", Text, nullable=False),
    Column("content_digest", LargeBinary, nullable=False),
    Column("batch_id", Text, ForeignKey("batches.id")),
    Column("batch_row", Integer),
    Column("policy_version", Text, nullable=False),
    Column("category", Text, nullable=False),
    Column("district", Text, nullable=False),
    Column("unit_code", Text, nullable=False),
    Column("agency", Text, nullable=False),
    Column("window", Text, nullable=False),
    Column("collector", Text, nullable=False),
    Column("acceptance_no", Text, nullable=False, unique=True),
    Column("confirmed", Boolean, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("photo_original", Text, nullable=False),
    Column("photo_result", Text),
    Column("received_at", Instant, nullable=False),
    UniqueConstraint("source", "external_ref"),
)
Index(
    "ix_submissions_batch",
    submissions.c.batch_id,
    postgresql_where=text("batch_id IS NOT NULL"),
    sqlite_where=text("batch_id IS NOT NULL"),
)

# By the name of the object: what is due for erasure, and who else names it.
Index(
    "ix_submissions_photo_original",
    submissions.c.photo_original,
    submissions.c.id,
    postgresql_where=text("photo_original <> ''"),
    sqlite_where=text("photo_original <> ''"),
)
Index(
    "ix_submissions_photo_result",
    submissions.c.photo_result,
    postgresql_where=text("photo_result IS NOT NULL"),
    sqlite_where=text("photo_result IS NOT NULL"),
)

applications = Table(
    "applications",
    metadata,
    Column("id", Text, ForeignKey("submissions.id"), primary_key=True),
    Column("version", Integer, nullable=False, default=1),
    Column("person_id", Text, ForeignKey("persons.id"), nullable=False),
    Column("card_type", Text, nullable=False),
    Column("region", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("priority", Text, nullable=False),
    Column("lane", Text, nullable=False),
    Column("outlet", Text, nullable=False),
    Column("bank_code", Text, nullable=False),
    # where it stands
    Column("status", Text, nullable=False),
    Column("stage", Text),
    Column("held_from", Text),
    Column("ending", Text),
    Column("reasons", Json, nullable=False),
    Column("due_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    # whose turn it is: the stage column is the queue
    Column("work", Text, nullable=False),
    Column("next_try_at", Instant),
    Column("lease_token", Text),
    Column("lease_until", Instant),
    Column("lease_size", Integer, nullable=False, default=0),
    Column("solo", Boolean, nullable=False, default=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("crashes", Integer, nullable=False, default=0),
    # the card being made
    Column("station", Text),
    Column("blank_serial", Text),
    Column("card_number", Text),
    Column("issued_on", Date),
    # on its way to the person
    Column("delivered_at", Instant),
    Column("notified_at", Instant),
    Column("collect_by", Instant),
    _one_of("status", tuple(STATUSES)),
    _one_of("work", ("none", "waiting", "ready", "queued", "running", "reconcile")),
    _one_of("lane", ("urgent", "normal", "bulk")),
)
_LIVE_LIST = ", ".join(f"'{name}'" for name in LIVE)
Index(
    "uq_applications_live",
    applications.c.person_id,
    applications.c.card_type,
    unique=True,
    postgresql_where=text(f"status IN ({_LIVE_LIST}) AND (ending IS NULL OR ending <> 'abandoned')"),
    sqlite_where=text(f"status IN ({_LIVE_LIST}) AND (ending IS NULL OR ending <> 'abandoned')"),
)
for _name, _columns, _where in (
    ("ix_applications_ready", ("stage", "lane", "due_at", "id"), "work = 'ready'"),
    ("ix_applications_waiting", ("next_try_at",), "work = 'waiting' AND next_try_at IS NOT NULL"),
    ("ix_applications_leased", ("lease_until",), "work IN ('queued', 'running')"),
    ("ix_applications_reconcile", ("stage", "station"), "work = 'reconcile'"),
    ("ix_applications_queued", ("stage", "lane"), "work = 'queued'"),
):
    Index(
        _name,
        *(applications.c[column] for column in _columns),
        postgresql_where=text(_where),
        sqlite_where=text(_where),
    )
Index("ix_applications_person", applications.c.person_id)
transitions = Table(
    "transitions",
    metadata,
    Column("seq", BigId, primary_key=True, autoincrement=True),
    Column("application_id", Text, nullable=False),
    Column("at", Instant, nullable=False),
    Column("frm", Text, nullable=False),
    Column("to", Text, nullable=False),
    Column("stage", Text),
    Column("outcome", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("actor", Text, nullable=False),
)
Index("ix_transitions_application", transitions.c.application_id, transitions.c.seq)

# What the newest run made of an application's photo, and what a person decided. Of a photo that was erased, `original` is empty
# and `picture` is null.
photos = Table(
    "photos",
    metadata,
    Column("application_id", Text, ForeignKey("applications.id"), primary_key=True),
    Column("state", Text, nullable=False),
    Column("original", Text, nullable=False),
    Column("picture", Text),
    Column("profile", Text, nullable=False),
    Column("profile_version", Text, nullable=False),
    Column("background", Text),
    Column("width_px", Integer),
    Column("height_px", Integer),
    Column("quality", Integer),
    Column("bytes", Integer),
    Column("findings", Json, nullable=False),
    Column("measures", Json, nullable=False),
    Column("geometry", Json),
    Column("adjust", Json),
    Column("run_at", Instant, nullable=False),
    Column("decided_by", Text),
    Column("decided_at", Instant),
    Column("note", Text),
    _one_of("state", ("normalised", "review", "approved", "rejected")),
    _one_of("background", ("kept", "whitened", "replaced")),
    CheckConstraint("state = 'rejected' OR picture IS NOT NULL OR original = ''", name="pictured"),
    CheckConstraint(
        "picture IS NULL OR (background IS NOT NULL AND width_px IS NOT NULL AND height_px IS NOT NULL"
        " AND quality IS NOT NULL AND bytes IS NOT NULL AND bytes > 0)",
        name="measured",
    ),
    CheckConstraint(
        "(decided_by IS NULL) = (decided_at IS NULL) AND (decided_by IS NULL) = (note IS NULL)", name="signed"
    ),
    CheckConstraint("state <> 'approved' OR decided_by IS NOT NULL", name="approved"),
    CheckConstraint("state NOT IN ('normalised', 'review') OR decided_by IS NULL", name="undecided"),
)
Index(
    "ix_photos_review",
    photos.c.application_id,
    postgresql_where=text("state = 'review'"),
    sqlite_where=text("state = 'review'"),
)
Index(
    "ix_photos_original",
    photos.c.original,
    postgresql_where=text("original <> ''"),
    sqlite_where=text("original <> ''"),
)
Index(
    "ix_photos_picture",
    photos.c.picture,
    postgresql_where=text("picture IS NOT NULL"),
    sqlite_where=text("picture IS NOT NULL"),
)

# Objects that their application has let go of, a picture for a newer one or all of them after its end, or a crop's about to be named: to be erased, unless a row names them.
objects_retired = Table(
    "objects_retired",
    metadata,
    Column("application_id", Text, ForeignKey("applications.id"), primary_key=True),
    Column("object", Text, primary_key=True),
    Column("retired_at", Instant, nullable=False),
)

stage_control = Table(
    "stage_control",
    metadata,
    Column("stage", Text, primary_key=True),
    Column("paused", Boolean, nullable=False, default=False),
    Column("reason", Text, nullable=False, default=""),
    Column("actor", Text, nullable=False, default=""),
    Column("at", Instant),
    _one_of("stage", STAGES),
)

BANK_OPERATIONS = (
    "open_account",
    "bind_card",
    "card_produced",
    "activate_financial",
    "freeze_financial",
    "release_financial",
    "update_holder",
    "close_account",
)
external_calls = Table(
    "external_calls",
    metadata,
    Column("key", Text, primary_key=True),
    Column("application_id", Text, ForeignKey("applications.id"), nullable=False),
    Column("person_id", Text, ForeignKey("persons.id"), nullable=False),
    Column("system", Text, nullable=False),
    Column("operation", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("tries", Integer, nullable=False, default=0),
    Column("created_at", Instant, nullable=False),
    Column("settled_at", Instant),
    Column("code", Text),
    # Of what the bank desk gives by itself, about an account that exists: its place in the account's order, whose turn it is, and
    # on what ground it was asked for.
    Column("account_id", Text, ForeignKey("accounts.id")),
    Column("card_id", Text, ForeignKey("cards.id")),
    Column("seq", Integer),
    Column("next_try_at", Instant),
    Column("expected_by", Instant),
    Column("lease_token", Text),
    Column("lease_until", Instant),
    Column("held", Boolean, nullable=False, default=False),
    Column("reason", Text),
    Column("actor", Text),
    _one_of("state", ("intent", "unknown", "pending", "not_received", "done", "declined", "closed")),
    _one_of("operation", BANK_OPERATIONS),
    CheckConstraint(
        "operation IN ('open_account', 'bind_card') OR (account_id IS NOT NULL AND seq IS NOT NULL)",
        name="about_account",
    ),
    UniqueConstraint("account_id", "seq"),
)
Index("ix_external_calls_application", external_calls.c.application_id)
Index("ix_external_calls_person", external_calls.c.person_id, external_calls.c.system)
Index(
    "ix_external_calls_desk",
    external_calls.c.account_id,
    external_calls.c.seq,
    postgresql_where=text("seq IS NOT NULL AND state NOT IN ('done', 'declined', 'closed')"),
    sqlite_where=text("seq IS NOT NULL AND state NOT IN ('done', 'declined', 'closed')"),
)

# What the account stage asked for and has no end yet.
Index(
    "ix_external_calls_stage",
    external_calls.c.created_at,
    postgresql_where=text("seq IS NULL AND state IN ('intent', 'unknown', 'pending')"),
    sqlite_where=text("seq IS NULL AND state IN ('intent', 'unknown', 'pending')"),
)

accounts = Table(
    "accounts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("person_id", Text, ForeignKey("persons.id"), nullable=False),
    Column("bank_code", Text, nullable=False),
    Column("application_id", Text, ForeignKey("applications.id"), nullable=False),
    Column("key", Text, nullable=False, unique=True),
    Column("generation", Integer, nullable=False, default=1),
    Column("status", Text, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("opened_at", Instant, nullable=False),
    Column("frozen_at", Instant),
    Column("closed_at", Instant),
    _one_of("status", ("open", "closed")),
    CheckConstraint("(status = 'closed') = (closed_at IS NOT NULL)", name="closed"),
)
Index(
    "uq_accounts_open",
    accounts.c.person_id,
    accounts.c.bank_code,
    unique=True,
    postgresql_where=text("status = 'open'"),
    sqlite_where=text("status = 'open'"),
)

# How far each bank's late replies were read (`ports.LateReplies.cursor`).
bank_cursors = Table(
    "bank_cursors",
    metadata,
    Column("bank_code", Text, primary_key=True),
    Column("cursor", Text, nullable=False),
    Column("at", Instant, nullable=False),
)

# Batch files of banks that exchange files: what goes out and what came back. The bytes of a file lie in the object store, encrypted.
bank_files = Table(
    "bank_files",
    metadata,
    Column("id", Text, primary_key=True),
    Column("bank_code", Text, nullable=False),
    Column("direction", Text, nullable=False),
    Column("batch", Text),
    Column("file", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("object", Text),
    Column("problem", Text),
    Column("created_at", Instant, nullable=False),
    Column("settled_at", Instant),
    UniqueConstraint("bank_code", "direction", "file", "sha256"),
    _one_of("direction", ("out", "in")),
    _one_of("state", ("written", "sent", "read", "refused")),
    CheckConstraint("state <> 'refused' OR problem IS NOT NULL", name="explained"),
    CheckConstraint("direction <> 'out' OR (batch IS NOT NULL AND state <> 'refused')", name="ours"),
)
Index(
    "uq_bank_files_batch",
    bank_files.c.bank_code,
    bank_files.c.batch,
    unique=True,
    postgresql_where=text("direction = 'out'"),
    sqlite_where=text("direction = 'out'"),
)
# One instruction in a file: taken into no file yet, sent in one, answered. `answered_seq` is the order in which answers became known;
# the answer stands sealed beside what was asked. `blind_index`: of the document's number, for files that name people and no keys.
bank_file_rows = Table(
    "bank_file_rows",
    metadata,
    Column("key", Text, primary_key=True),
    Column("bank_code", Text, nullable=False),
    Column("file_id", Text, ForeignKey("bank_files.id")),
    Column("row_no", Integer),
    Column("state", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("blind_index", LargeBinary, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("answered_seq", BigInteger, unique=True),
    Column("taken_at", Instant, nullable=False),
    Column("expected_by", Instant, nullable=False),
    Column("answered_at", Instant),
    UniqueConstraint("file_id", "row_no"),
    _one_of("state", ("taken", "sent", "accepted", "answered")),
    CheckConstraint("(state = 'taken') = (file_id IS NULL)", name="filed"),
    CheckConstraint("(state = 'answered') = (answered_seq IS NOT NULL AND answered_at IS NOT NULL)", name="answered"),
)
Index("ix_bank_file_rows_person", bank_file_rows.c.bank_code, bank_file_rows.c.blind_index)
Index("ix_bank_file_rows_answered", bank_file_rows.c.bank_code, bank_file_rows.c.answered_at)
Index(
    "ix_bank_file_rows_taken",
    bank_file_rows.c.bank_code,
    bank_file_rows.c.taken_at,
    postgresql_where=text("state = 'taken'"),
    sqlite_where=text("state = 'taken'"),
)

number_ranges = Table(
    "number_ranges",
    metadata,
    Column("name", Text, primary_key=True),
    Column("next", BigInteger, nullable=False),
)

# A production job (制卡批次): blanks issued to a station, until every one of them is accounted for. The figures are those of its closing.
production_jobs = Table(
    "production_jobs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("type", Text, nullable=False),
    Column("station", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("opened_by", Text, nullable=False),
    Column("opened_at", Instant, nullable=False),
    Column("closed_by", Text),
    Column("closed_at", Instant),
    Column("issued", Integer, nullable=False, default=0),
    Column("good", Integer, nullable=False, default=0),
    Column("spoiled", Integer, nullable=False, default=0),
    Column("returned", Integer, nullable=False, default=0),
    Column("missing", Integer, nullable=False, default=0),
    _one_of("state", ("open", "closed")),
    CheckConstraint("state <> 'closed' OR good + spoiled + returned + missing = issued", name="balanced"),
    CheckConstraint("state <> 'closed' OR (closed_by IS NOT NULL AND closed_by <> opened_by)", name="two_people"),
)

BLANK_BOUND = ("reserved", "encoding", "quarantined", "bound")
blanks = Table(
    "blanks",
    metadata,
    Column("serial", Text, primary_key=True),
    Column("type", Text, nullable=False),
    Column("lot", Text, nullable=False),
    Column("location", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("application_id", Text, ForeignKey("applications.id")),
    Column("station", Text),
    Column("job_id", Text, ForeignKey("production_jobs.id")),
    Column("received_at", Instant, nullable=False),
    Column("changed_at", Instant, nullable=False),
    Column("problem", Text),
    _one_of("state", ("stocked", *BLANK_BOUND, "voided", "spoiled", "missing", "test", "destroyed")),
    CheckConstraint(
        "state NOT IN ('reserved', 'encoding', 'quarantined', 'bound') OR (job_id IS NOT NULL"
        " AND (application_id IS NOT NULL OR state = 'quarantined'))",
        name="bound_to",
    ),
)
_BOUND_LIST = ", ".join(f"'{state}'" for state in BLANK_BOUND)
Index(
    "uq_blanks_application",
    blanks.c.application_id,
    unique=True,
    postgresql_where=text(f"state IN ({_BOUND_LIST})"),
    sqlite_where=text(f"state IN ({_BOUND_LIST})"),
)
Index(
    "ix_blanks_stocked",
    blanks.c.type,
    blanks.c.station,
    blanks.c.serial,
    postgresql_where=text("state = 'stocked'"),
    sqlite_where=text("state = 'stocked'"),
)
Index(
    "ix_blanks_out",
    blanks.c.job_id,
    postgresql_where=text("state IN ('stocked', 'reserved', 'encoding', 'quarantined')"),
    sqlite_where=text("state IN ('stocked', 'reserved', 'encoding', 'quarantined')"),
)

BLANK_EVENTS = (
    "received",
    "issued",
    "taken",
    "untouched",
    "quarantined",
    "bound",
    "voided",
    "spoiled",
    "returned",
    "missing",
    "found",
    "destroyed",
)
blank_ledger = Table(
    "blank_ledger",
    metadata,
    Column("seq", BigId, primary_key=True, autoincrement=True),
    Column("serial", Text, ForeignKey("blanks.serial"), nullable=False),
    Column("at", Instant, nullable=False),
    Column("event", Text, nullable=False),
    Column("application_id", Text),
    Column("station", Text),
    Column("job_id", Text),
    Column("actor", Text, nullable=False),
    Column("witness", Text),
    Column("reason", Text),
    Column("document", Text),
    _one_of("event", BLANK_EVENTS),
    CheckConstraint("witness IS NULL OR witness <> actor", name="two_people"),
    CheckConstraint(
        "event NOT IN ('missing', 'found', 'destroyed') OR (witness IS NOT NULL AND reason IS NOT NULL)",
        name="witnessed",
    ),
    CheckConstraint("event <> 'destroyed' OR document IS NOT NULL", name="certified"),
)
Index("ix_blank_ledger_serial", blank_ledger.c.serial)
Index("ix_blank_ledger_event", blank_ledger.c.event, blank_ledger.c.at)
Index(
    "ix_blank_ledger_job",
    blank_ledger.c.job_id,
    blank_ledger.c.event,
    postgresql_where=text("job_id IS NOT NULL"),
    sqlite_where=text("job_id IS NOT NULL"),
)

# What the process of a station says of its readers, and what an operator wants of them.
encoders = Table(
    "encoders",
    metadata,
    Column("station", Text, primary_key=True),
    Column("reader", Text, primary_key=True),
    Column("state", Text, nullable=False),
    Column("application_id", Text),
    Column("cards", Integer, nullable=False),
    Column("good", Integer, nullable=False),
    Column("spoiled", Integer, nullable=False),
    Column("unknown", Integer, nullable=False),
    Column("cards_per_hour", Integer, nullable=False),
    Column("last_error", Text),
    Column("detail", Text),
    Column("last_card_at", Instant),
    Column("heartbeat_at", Instant, nullable=False),
    Column("wanted", Text, nullable=False),
    _one_of("state", ("idle", "busy", "paused", "draining", "faulted", "maintenance", "awaiting_authorisation")),
    _one_of("wanted", ("run", "drain")),
)

PLACES = ("centre", "courier", "outlet", "unit", "holder", "bank", "lost", "destroyed")
"""Where a card can be. `lost`: searched for and given up, with the bundle's discrepancy settled; it may yet be found."""
RETURN_REASONS = ("uncollected", "recalled", "misrouted", "damaged", "refused", "wrong_data", "unreadable")
cards = Table(
    "cards",
    metadata,
    Column("id", Text, primary_key=True),
    Column("application_id", Text, ForeignKey("applications.id"), nullable=False),
    Column("person_id", Text, ForeignKey("persons.id"), nullable=False),
    Column("card_type", Text, nullable=False),
    Column("account_id", Text, ForeignKey("accounts.id")),
    Column("blank_serial", Text, ForeignKey("blanks.serial"), nullable=False, unique=True),
    Column("card_number", Text, nullable=False, unique=True),
    Column("chip_id", Text, nullable=False),
    Column("issued_on", Date, nullable=False),
    Column("expires_on", Date, nullable=False),
    Column("status", Text, nullable=False),
    Column("custody", Text, nullable=False),
    Column("place", Text, nullable=False),
    Column("bundle_id", Text, ForeignKey("bundles.id")),
    Column("slot", Text),
    Column("face", Text),
    Column("return_reason", Text),
    # The bank card number the card was made with. That of its account changes with every later card.
    Column("sealed", LargeBinary),
    Column("verified_at", Instant, nullable=False),
    Column("changed_at", Instant, nullable=False),
    _one_of("status", ("produced", "voided", "issued", "active", "frozen", "cancelled", "destroyed")),
    _one_of("custody", PLACES),
    _one_of("return_reason", RETURN_REASONS),
    CheckConstraint("(status = 'destroyed') = (custody = 'destroyed')", name="destroyed"),
)
Index(
    "uq_cards_unvoided",
    cards.c.application_id,
    unique=True,
    postgresql_where=text("status NOT IN ('voided', 'destroyed')"),
    sqlite_where=text("status NOT IN ('voided', 'destroyed')"),
)
Index(
    "uq_cards_chip",
    cards.c.chip_id,
    unique=True,
    postgresql_where=text("status <> 'voided'"),
    sqlite_where=text("status <> 'voided'"),
)
Index(
    "ix_cards_face",
    cards.c.face,
    postgresql_where=text("face IS NOT NULL"),
    sqlite_where=text("face IS NOT NULL"),
)
Index(
    "ix_cards_with_face",
    cards.c.application_id,
    postgresql_where=text("face IS NOT NULL"),
    sqlite_where=text("face IS NOT NULL"),
)
Index("ix_cards_person", cards.c.person_id)
Index("ix_cards_account", cards.c.account_id)
Index("ix_cards_bundle", cards.c.bundle_id)

bundles = Table(
    "bundles",
    metadata,
    Column("id", Text, primary_key=True),
    Column("direction", Text, nullable=False),
    Column("outlet", Text, nullable=False),
    Column("region", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("seal_no", Text),
    Column("manifest", Json),
    Column("carrier", Text),
    Column("carrier_ref", Text),
    Column("opened_at", Instant, nullable=False),
    Column("sealed_at", Instant),
    Column("shipped_at", Instant),
    Column("alerted_at", Instant),
    Column("received_at", Instant),
    Column("closed_at", Instant),
    _one_of("direction", ("out", "back")),
    _one_of("status", ("packing", "sealed", "shipped", "received", "disputed", "closed")),
)
Index(
    "uq_bundles_packing",
    bundles.c.outlet,
    bundles.c.direction,
    unique=True,
    postgresql_where=text("status = 'packing'"),
    sqlite_where=text("status = 'packing'"),
)

Index(
    "ix_bundles_under_way",
    bundles.c.shipped_at,
    postgresql_where=text("status IN ('shipped', 'received', 'disputed')"),
    sqlite_where=text("status IN ('shipped', 'received', 'disputed')"),
)

# What a bundle held beyond or short of its packing list. While one is open the bundle is disputed and does not close.
discrepancies = Table(
    "discrepancies",
    metadata,
    Column("id", Text, primary_key=True),
    Column("bundle_id", Text, ForeignKey("bundles.id"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("card_id", Text, ForeignKey("cards.id")),
    Column("serial", Text, nullable=False),
    Column("note", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("resolution", Text),
    Column("opened_by", Text, nullable=False),
    Column("opened_at", Instant, nullable=False),
    Column("settled_by", Text),
    Column("settled_at", Instant),
    _one_of("kind", ("missing", "extra", "damaged", "seal")),
    _one_of("state", ("open", "settled")),
    _one_of("resolution", ("arrived", "lost", "sent_back", "forwarded", "not_ours", "accepted")),
    CheckConstraint(
        "(state = 'settled') = (resolution IS NOT NULL AND settled_by IS NOT NULL AND settled_at IS NOT NULL)",
        name="settled",
    ),
    CheckConstraint("kind IN ('seal', 'extra') OR card_id IS NOT NULL", name="whose"),
)
Index("ix_discrepancies_bundle", discrepancies.c.bundle_id)
Index(
    "uq_discrepancies_open",
    discrepancies.c.bundle_id,
    discrepancies.c.kind,
    discrepancies.c.serial,
    unique=True,
    postgresql_where=text("state = 'open'"),
    sqlite_where=text("state = 'open'"),
)

# Every change of place of a card, by two parties, signed with the installation's custody key and chained by card.
custody_events = Table(
    "custody_events",
    metadata,
    Column("id", Text, primary_key=True),
    Column("card_id", Text, ForeignKey("cards.id"), nullable=False),
    Column("at", Instant, nullable=False),
    Column("giver", Text, nullable=False),
    Column("giver_place", Text, nullable=False),
    Column("taker", Text, nullable=False),
    Column("taker_place", Text, nullable=False),
    Column("bundle_id", Text),
    Column("seal_no", Text),
    Column("given_by", Text, nullable=False),
    Column("taken_by", Text, nullable=False),
    Column("previous", Text),
    Column("signature", LargeBinary, nullable=False),
    CheckConstraint("given_by <> taken_by", name="two_parties"),
    UniqueConstraint("card_id", "previous"),
)
Index("ix_custody_events_card", custody_events.c.card_id)
Index(
    "uq_custody_events_first",
    custody_events.c.card_id,
    unique=True,
    postgresql_where=text("previous IS NULL"),
    sqlite_where=text("previous IS NULL"),
)

# Cards that are destroyed: listed by one person, done by two others' hands, with a numbered receipt.
destructions = Table(
    "destructions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("items", Json, nullable=False),
    Column("listed_by", Text, nullable=False),
    Column("listed_at", Instant, nullable=False),
    Column("destroyed_by", Text),
    Column("witness", Text),
    Column("receipt_no", Text, unique=True),
    Column("signature", LargeBinary),
    Column("settled_at", Instant),
    _one_of("state", ("listed", "done", "withdrawn")),
    CheckConstraint("destroyed_by <> witness", name="two_people"),
    CheckConstraint(
        "state <> 'done' OR (destroyed_by IS NOT NULL AND witness IS NOT NULL AND receipt_no IS NOT NULL"
        " AND signature IS NOT NULL AND settled_at IS NOT NULL)",
        name="receipted",
    ),
)
destruction_cards = Table(
    "destruction_cards",
    metadata,
    Column("destruction_id", Text, ForeignKey("destructions.id"), primary_key=True),
    Column("card_id", Text, ForeignKey("cards.id"), primary_key=True),
    Column("open", Boolean, nullable=False),
)
Index(
    "uq_destruction_cards_open",
    destruction_cards.c.card_id,
    unique=True,
    postgresql_where=text("open"),
    sqlite_where=text("open"),
)

notices = Table(
    "notices",
    metadata,
    Column("id", Text, primary_key=True),
    Column("application_id", Text, ForeignKey("applications.id"), nullable=False),
    Column("method", Text, nullable=False),
    Column("notified_at", Instant, nullable=False),
    Column("actor", Text, nullable=False),
)
Index("ix_notices_application", notices.c.application_id)

hand_overs = Table(
    "hand_overs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("card_id", Text, ForeignKey("cards.id"), nullable=False),
    Column("application_id", Text, ForeignKey("applications.id"), nullable=False),
    Column("taken_by", Text, nullable=False),
    Column("document_type", Text, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("collected_at", Instant, nullable=False),
    Column("actor", Text, nullable=False),
    Column("key", Text, unique=True),
    Column("status_before", Text, nullable=False),
    Column("reverted_at", Instant),
    Column("reverted_by", Text),
    Column("revert_reason", Text),
    CheckConstraint(
        "(reverted_at IS NULL) = (reverted_by IS NULL) AND (reverted_at IS NULL) = (revert_reason IS NULL)",
        name="reverted",
    ),
)
Index(
    "uq_hand_overs_standing",
    hand_overs.c.card_id,
    unique=True,
    postgresql_where=text("reverted_at IS NULL"),
    sqlite_where=text("reverted_at IS NULL"),
)

fees = Table(
    "fees",
    metadata,
    Column("id", Text, primary_key=True),
    Column("application_id", Text, ForeignKey("applications.id"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("amount_fen", Integer, nullable=False),
    Column("rule", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("method", Text),
    Column("receipt_no", Text),
    Column("ground", Text),
    Column("evidence", Text),
    Column("created_at", Instant, nullable=False),
    Column("settled_at", Instant),
    Column("settled_by", Text),
    Column("refunded_at", Instant),
    Column("refunded_by", Text),
    Column("refund_no", Text),
    UniqueConstraint("application_id", "kind"),
    _one_of("status", ("due", "paid", "waived", "refunded")),
    _one_of("method", ("bank", "cash", "online")),
    CheckConstraint("(status = 'due') = (settled_at IS NULL)", name="settled"),
    CheckConstraint("status NOT IN ('paid', 'refunded') OR receipt_no IS NOT NULL", name="receipt"),
    CheckConstraint("status <> 'waived' OR (ground IS NOT NULL AND evidence IS NOT NULL)", name="evidence"),
    CheckConstraint(
        "(status = 'refunded') = (refunded_at IS NOT NULL) AND (refunded_at IS NULL) = (refund_no IS NULL)",
        name="refunded",
    ),
    CheckConstraint("amount_fen >= 0", name="amount"),
)

timers = Table(
    "timers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("application_id", Text, ForeignKey("applications.id"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("due_at", Instant, nullable=False),
    Column("fired_at", Instant),
    Column("cancelled_at", Instant),
    UniqueConstraint("application_id", "kind", "due_at"),
)
Index(
    "ix_timers_due",
    timers.c.due_at,
    postgresql_where=text("fired_at IS NULL AND cancelled_at IS NULL"),
    sqlite_where=text("fired_at IS NULL AND cancelled_at IS NULL"),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", Text, primary_key=True),
    Column("type", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("outlet", Text),
    Column("body", LargeBinary, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("position", BigInteger, unique=True),
)
Index(
    "ix_outbox_unplaced",
    outbox.c.id,
    postgresql_where=text("position IS NULL"),
    sqlite_where=text("position IS NULL"),
)

Index(
    "ix_outbox_outlet",
    outbox.c.outlet,
    outbox.c.position,
    postgresql_where=text("position IS NOT NULL"),
    sqlite_where=text("position IS NOT NULL"),
)

# An outlet's queue on RabbitMQ: `position` is the last event of the feed that the broker has surely taken for it.
outlet_queues = Table(
    "outlet_queues",
    metadata,
    Column("outlet", Text, primary_key=True),
    Column("state", Text, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("tries", Integer, nullable=False, default=0),
    Column("next_try_at", Instant),
    Column("refused_since", Instant),
    Column("problem", Text),
    Column("delivered", BigInteger, nullable=False, default=0),
    _one_of("state", ("enabled", "disabled")),
)

# What an outlet's command was answered, in the transaction of its effect: the same message again gets the same answer.
command_answers = Table(
    "command_answers",
    metadata,
    Column("source", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("digest", LargeBinary, nullable=False),
    Column("answer", Json, nullable=False),
    Column("created_at", Instant, nullable=False),
)
Index("ix_command_answers_created_at", command_answers.c.created_at)

# An outlet's webhook. `position`: events of the feed up to here have become deliveries. `sealed` holds its signing keys.
webhook_endpoints = Table(
    "webhook_endpoints",
    metadata,
    Column("id", Text, primary_key=True),
    Column("outlet", Text, nullable=False),
    Column("region", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("types", Json, nullable=False),
    Column("signature", Text, nullable=False),
    Column("max_rps", Integer, nullable=False),
    Column("description", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("version", Integer, nullable=False, default=1),
    Column("created_at", Instant, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("failing_since", Instant),
    Column("not_before", Instant),
    Column("disabled_at", Instant),
    Column("disabled_why", Text),
    _one_of("signature", ("ed25519", "hmac")),
    _one_of("state", ("enabled", "disabled", "deleted")),
    CheckConstraint("state <> 'disabled' OR disabled_why IS NOT NULL", name="explained"),
)
Index("ix_webhook_endpoints_outlet", webhook_endpoints.c.outlet)

# An event on its way to an endpoint: once for each pair, whatever happens.
deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Text, primary_key=True),
    Column("endpoint_id", Text, ForeignKey("webhook_endpoints.id"), nullable=False),
    Column("event_id", Text, ForeignKey("outbox.id"), nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("tries", Integer, nullable=False, default=0),
    Column("next_try_at", Instant),
    Column("lease_token", Text),
    Column("lease_until", Instant),
    Column("created_at", Instant, nullable=False),
    Column("settled_at", Instant),
    UniqueConstraint("endpoint_id", "event_id"),
    _one_of("state", ("waiting", "sending", "delivered", "exhausted")),
    CheckConstraint("(state = 'waiting') = (next_try_at IS NOT NULL)", name="waiting"),
    CheckConstraint("(state = 'sending') = (lease_until IS NOT NULL)", name="leased"),
)
Index(
    "ix_deliveries_due",
    deliveries.c.endpoint_id,
    deliveries.c.next_try_at,
    deliveries.c.position,
    postgresql_where=text("state = 'waiting'"),
    sqlite_where=text("state = 'waiting'"),
)
Index(
    "ix_deliveries_leased",
    deliveries.c.lease_until,
    postgresql_where=text("state = 'sending'"),
    sqlite_where=text("state = 'sending'"),
)

# Every attempt, for 90 days: what was sent but the body (the outbox has it), and what came back, at most 2 KB of it.
delivery_attempts = Table(
    "delivery_attempts",
    metadata,
    Column("seq", BigId, primary_key=True, autoincrement=True),
    Column("delivery_id", Text, ForeignKey("deliveries.id"), nullable=False),
    Column("endpoint_id", Text, nullable=False),
    Column("at", Instant, nullable=False),
    Column("result", Text, nullable=False),
    Column("status_code", Integer),
    Column("problem", Text),
    Column("request_headers", Json, nullable=False),
    Column("response_headers", Json),
    Column("response", Text),
    Column("dns_ms", Integer),
    Column("connect_ms", Integer),
    Column("http_ms", Integer),
)
Index("ix_delivery_attempts_delivery", delivery_attempts.c.delivery_id)
Index("ix_delivery_attempts_at", delivery_attempts.c.at)

audit = Table(
    "audit",
    metadata,
    Column("id", Text, primary_key=True),
    Column("at", Instant, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("detail", Json, nullable=False),
    Column("seq", BigInteger, unique=True),
    Column("prev_hash", LargeBinary),
    Column("hash", LargeBinary),
)
Index("ix_audit_unsealed", audit.c.id, postgresql_where=text("seq IS NULL"), sqlite_where=text("seq IS NULL"))

roles = Table(
    "roles",
    metadata,
    Column("role", Text, primary_key=True),
    Column("pid", Integer, nullable=False),
    Column("since", Instant, nullable=False),
    Column("beat_at", Instant, nullable=False),
)
