"""The first schema."""

import sqlalchemy as sa
from alembic import op

from pipeline.store.types import BigId, Instant, Json

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make every table."""
    op.create_table(
        "audit",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("detail", Json, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=True),
        sa.Column("prev_hash", sa.LargeBinary(), nullable=True),
        sa.Column("hash", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
        sa.UniqueConstraint("seq", name=op.f("uq_audit_seq")),
    )
    op.create_index(
        "ix_audit_unsealed",
        "audit",
        ["id"],
        unique=False,
        postgresql_where=sa.text("seq IS NULL"),
        sqlite_where=sa.text("seq IS NULL"),
    )
    op.create_table(
        "bank_cursors",
        sa.Column("bank_code", sa.Text(), nullable=False),
        sa.Column("cursor", sa.Text(), nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("bank_code", name=op.f("pk_bank_cursors")),
    )
    op.create_table(
        "bank_files",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("bank_code", sa.Text(), nullable=False),
        sa.Column("direction", sa.Text(), nullable=False),
        sa.Column("batch", sa.Text(), nullable=True),
        sa.Column("file", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("object", sa.Text(), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("settled_at", Instant(), nullable=True),
        sa.CheckConstraint(
            "direction <> 'out' OR (batch IS NOT NULL AND state <> 'refused')", name=op.f("ck_bank_files_ours")
        ),
        sa.CheckConstraint("direction IN ('out', 'in')", name=op.f("ck_bank_files_direction")),
        sa.CheckConstraint("state <> 'refused' OR problem IS NOT NULL", name=op.f("ck_bank_files_explained")),
        sa.CheckConstraint("state IN ('written', 'sent', 'read', 'refused')", name=op.f("ck_bank_files_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bank_files")),
        sa.UniqueConstraint(
            "bank_code", "direction", "file", "sha256", name=op.f("uq_bank_files_bank_code_direction_file_sha256")
        ),
    )
    op.create_index(
        "uq_bank_files_batch",
        "bank_files",
        ["bank_code", "batch"],
        unique=True,
        postgresql_where=sa.text("direction = 'out'"),
        sqlite_where=sa.text("direction = 'out'"),
    )
    op.create_table(
        "batches",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("file_sha256", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("next_row", sa.Integer(), nullable=False),
        sa.Column("accepted", sa.Integer(), nullable=False),
        sa.Column("rejected", sa.Integer(), nullable=False),
        sa.Column("duplicate", sa.Integer(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("completed_at", Instant(), nullable=True),
        sa.CheckConstraint(
            "status <> 'completed' OR accepted + rejected + duplicate = rows", name=op.f("ck_batches_adds_up")
        ),
        sa.CheckConstraint(
            "status IN ('uploading', 'validating', 'awaiting_commit', 'processing', 'completed', 'failed', 'cancelled')",
            name=op.f("ck_batches_status"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
        sa.UniqueConstraint("source", "file_sha256", name=op.f("uq_batches_source_file_sha256")),
    )
    op.create_table(
        "bundles",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("direction", sa.Text(), nullable=False),
        sa.Column("outlet", sa.Text(), nullable=False),
        sa.Column("region", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("seal_no", sa.Text(), nullable=True),
        sa.Column("manifest", Json, nullable=True),
        sa.Column("carrier", sa.Text(), nullable=True),
        sa.Column("carrier_ref", sa.Text(), nullable=True),
        sa.Column("opened_at", Instant(), nullable=False),
        sa.Column("sealed_at", Instant(), nullable=True),
        sa.Column("shipped_at", Instant(), nullable=True),
        sa.Column("alerted_at", Instant(), nullable=True),
        sa.Column("received_at", Instant(), nullable=True),
        sa.Column("closed_at", Instant(), nullable=True),
        sa.CheckConstraint("direction IN ('out', 'back')", name=op.f("ck_bundles_direction")),
        sa.CheckConstraint(
            "status IN ('packing', 'sealed', 'shipped', 'received', 'disputed', 'closed')",
            name=op.f("ck_bundles_status"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bundles")),
    )
    op.create_index(
        "ix_bundles_under_way",
        "bundles",
        ["shipped_at"],
        unique=False,
        postgresql_where=sa.text("status IN ('shipped', 'received', 'disputed')"),
        sqlite_where=sa.text("status IN ('shipped', 'received', 'disputed')"),
    )
    op.create_index(
        "uq_bundles_packing",
        "bundles",
        ["outlet", "direction"],
        unique=True,
        postgresql_where=sa.text("status = 'packing'"),
        sqlite_where=sa.text("status = 'packing'"),
    )
    op.create_table(
        "command_answers",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("answer", Json, nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("source", "key", name=op.f("pk_command_answers")),
    )
    op.create_index("ix_command_answers_created_at", "command_answers", ["created_at"], unique=False)
    op.create_table(
        "data_keys",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_data_keys")),
    )
    op.create_table(
        "destructions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("items", Json, nullable=False),
        sa.Column("listed_by", sa.Text(), nullable=False),
        sa.Column("listed_at", Instant(), nullable=False),
        sa.Column("destroyed_by", sa.Text(), nullable=True),
        sa.Column("witness", sa.Text(), nullable=True),
        sa.Column("receipt_no", sa.Text(), nullable=True),
        sa.Column("signature", sa.LargeBinary(), nullable=True),
        sa.Column("settled_at", Instant(), nullable=True),
        sa.CheckConstraint(
            "state <> 'done' OR (destroyed_by IS NOT NULL AND witness IS NOT NULL AND receipt_no IS NOT NULL AND signature IS NOT NULL AND settled_at IS NOT NULL)",
            name=op.f("ck_destructions_receipted"),
        ),
        sa.CheckConstraint("state IN ('listed', 'done', 'withdrawn')", name=op.f("ck_destructions_state")),
        sa.CheckConstraint("destroyed_by <> witness", name=op.f("ck_destructions_two_people")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_destructions")),
        sa.UniqueConstraint("receipt_no", name=op.f("uq_destructions_receipt_no")),
    )
    op.create_table(
        "encoders",
        sa.Column("station", sa.Text(), nullable=False),
        sa.Column("reader", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("application_id", sa.Text(), nullable=True),
        sa.Column("cards", sa.Integer(), nullable=False),
        sa.Column("good", sa.Integer(), nullable=False),
        sa.Column("spoiled", sa.Integer(), nullable=False),
        sa.Column("unknown", sa.Integer(), nullable=False),
        sa.Column("cards_per_hour", sa.Integer(), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("last_card_at", Instant(), nullable=True),
        sa.Column("heartbeat_at", Instant(), nullable=False),
        sa.Column("wanted", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "state IN ('idle', 'busy', 'paused', 'draining', 'faulted', 'maintenance', 'awaiting_authorisation')",
            name=op.f("ck_encoders_state"),
        ),
        sa.CheckConstraint("wanted IN ('run', 'drain')", name=op.f("ck_encoders_wanted")),
        sa.PrimaryKeyConstraint("station", "reader", name=op.f("pk_encoders")),
    )
    op.create_table(
        "number_ranges",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("next", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_number_ranges")),
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("outlet", sa.Text(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
        sa.UniqueConstraint("position", name=op.f("uq_outbox_position")),
    )
    op.create_index(
        "ix_outbox_outlet",
        "outbox",
        ["outlet", "position"],
        unique=False,
        postgresql_where=sa.text("position IS NOT NULL"),
        sqlite_where=sa.text("position IS NOT NULL"),
    )
    op.create_index(
        "ix_outbox_unplaced",
        "outbox",
        ["id"],
        unique=False,
        postgresql_where=sa.text("position IS NULL"),
        sqlite_where=sa.text("position IS NULL"),
    )
    op.create_table(
        "outlet_queues",
        sa.Column("outlet", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("next_try_at", Instant(), nullable=True),
        sa.Column("refused_since", Instant(), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("delivered", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("state IN ('enabled', 'disabled')", name=op.f("ck_outlet_queues_state")),
        sa.PrimaryKeyConstraint("outlet", name=op.f("pk_outlet_queues")),
    )
    op.create_table(
        "persons",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("blind_index", sa.LargeBinary(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("erased_at", Instant(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_persons")),
        sa.UniqueConstraint("blind_index", name=op.f("uq_persons_blind_index")),
    )
    op.create_table(
        "production_jobs",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("station", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("opened_by", sa.Text(), nullable=False),
        sa.Column("opened_at", Instant(), nullable=False),
        sa.Column("closed_by", sa.Text(), nullable=True),
        sa.Column("closed_at", Instant(), nullable=True),
        sa.Column("issued", sa.Integer(), nullable=False),
        sa.Column("good", sa.Integer(), nullable=False),
        sa.Column("spoiled", sa.Integer(), nullable=False),
        sa.Column("returned", sa.Integer(), nullable=False),
        sa.Column("missing", sa.Integer(), nullable=False),
        sa.CheckConstraint(
            "state <> 'closed' OR (closed_by IS NOT NULL AND closed_by <> opened_by)",
            name=op.f("ck_production_jobs_two_people"),
        ),
        sa.CheckConstraint(
            "state <> 'closed' OR good + spoiled + returned + missing = issued",
            name=op.f("ck_production_jobs_balanced"),
        ),
        sa.CheckConstraint("state IN ('open', 'closed')", name=op.f("ck_production_jobs_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_production_jobs")),
    )
    op.create_table(
        "roles",
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("since", Instant(), nullable=False),
        sa.Column("beat_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("role", name=op.f("pk_roles")),
    )
    op.create_table(
        "stage_control",
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("at", Instant(), nullable=True),
        sa.CheckConstraint(
            "stage IN ('validation', 'photo', 'account', 'personalisation', 'dispatch', 'collection')",
            name=op.f("ck_stage_control_stage"),
        ),
        sa.PrimaryKeyConstraint("stage", name=op.f("pk_stage_control")),
    )
    op.create_table(
        "transitions",
        sa.Column("seq", BigId, autoincrement=True, nullable=False),
        sa.Column("application_id", sa.Text(), nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.Column("frm", sa.Text(), nullable=False),
        sa.Column("to", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_transitions")),
    )
    op.create_index("ix_transitions_application", "transitions", ["application_id", "seq"], unique=False)
    op.create_table(
        "webhook_endpoints",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("outlet", sa.Text(), nullable=False),
        sa.Column("region", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("types", Json, nullable=False),
        sa.Column("signature", sa.Text(), nullable=False),
        sa.Column("max_rps", sa.Integer(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("failing_since", Instant(), nullable=True),
        sa.Column("not_before", Instant(), nullable=True),
        sa.Column("disabled_at", Instant(), nullable=True),
        sa.Column("disabled_why", sa.Text(), nullable=True),
        sa.CheckConstraint("signature IN ('ed25519', 'hmac')", name=op.f("ck_webhook_endpoints_signature")),
        sa.CheckConstraint(
            "state <> 'disabled' OR disabled_why IS NOT NULL", name=op.f("ck_webhook_endpoints_explained")
        ),
        sa.CheckConstraint("state IN ('enabled', 'disabled', 'deleted')", name=op.f("ck_webhook_endpoints_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_endpoints")),
    )
    op.create_index("ix_webhook_endpoints_outlet", "webhook_endpoints", ["outlet"], unique=False)
    op.create_table(
        "bank_file_rows",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("bank_code", sa.Text(), nullable=False),
        sa.Column("file_id", sa.Text(), nullable=True),
        sa.Column("row_no", sa.Integer(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("blind_index", sa.LargeBinary(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("answered_seq", sa.BigInteger(), nullable=True),
        sa.Column("taken_at", Instant(), nullable=False),
        sa.Column("expected_by", Instant(), nullable=False),
        sa.Column("answered_at", Instant(), nullable=True),
        sa.CheckConstraint(
            "(state = 'answered') = (answered_seq IS NOT NULL AND answered_at IS NOT NULL)",
            name=op.f("ck_bank_file_rows_answered"),
        ),
        sa.CheckConstraint("(state = 'taken') = (file_id IS NULL)", name=op.f("ck_bank_file_rows_filed")),
        sa.CheckConstraint("state IN ('taken', 'sent', 'accepted', 'answered')", name=op.f("ck_bank_file_rows_state")),
        sa.ForeignKeyConstraint(["file_id"], ["bank_files.id"], name=op.f("fk_bank_file_rows_file_id")),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_bank_file_rows")),
        sa.UniqueConstraint("answered_seq", name=op.f("uq_bank_file_rows_answered_seq")),
        sa.UniqueConstraint("file_id", "row_no", name=op.f("uq_bank_file_rows_file_id_row_no")),
    )
    op.create_index("ix_bank_file_rows_answered", "bank_file_rows", ["bank_code", "answered_at"], unique=False)
    op.create_index("ix_bank_file_rows_person", "bank_file_rows", ["bank_code", "blind_index"], unique=False)
    op.create_index(
        "ix_bank_file_rows_taken",
        "bank_file_rows",
        ["bank_code", "taken_at"],
        unique=False,
        postgresql_where=sa.text("state = 'taken'"),
        sqlite_where=sa.text("state = 'taken'"),
    )
    op.create_table(
        "batch_errors",
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("row", sa.Integer(), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("column", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("zh", sa.Text(), nullable=False),
        sa.Column("en", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_batch_errors_batch_id")),
        sa.PrimaryKeyConstraint("batch_id", "row", "n", name=op.f("pk_batch_errors")),
    )
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("endpoint_id", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("next_try_at", Instant(), nullable=True),
        sa.Column("lease_token", sa.Text(), nullable=True),
        sa.Column("lease_until", Instant(), nullable=True),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("settled_at", Instant(), nullable=True),
        sa.CheckConstraint("(state = 'sending') = (lease_until IS NOT NULL)", name=op.f("ck_deliveries_leased")),
        sa.CheckConstraint("(state = 'waiting') = (next_try_at IS NOT NULL)", name=op.f("ck_deliveries_waiting")),
        sa.CheckConstraint(
            "state IN ('waiting', 'sending', 'delivered', 'exhausted')", name=op.f("ck_deliveries_state")
        ),
        sa.ForeignKeyConstraint(["endpoint_id"], ["webhook_endpoints.id"], name=op.f("fk_deliveries_endpoint_id")),
        sa.ForeignKeyConstraint(["event_id"], ["outbox.id"], name=op.f("fk_deliveries_event_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
        sa.UniqueConstraint("endpoint_id", "event_id", name=op.f("uq_deliveries_endpoint_id_event_id")),
    )
    op.create_index(
        "ix_deliveries_due",
        "deliveries",
        ["endpoint_id", "next_try_at", "position"],
        unique=False,
        postgresql_where=sa.text("state = 'waiting'"),
        sqlite_where=sa.text("state = 'waiting'"),
    )
    op.create_index(
        "ix_deliveries_leased",
        "deliveries",
        ["lease_until"],
        unique=False,
        postgresql_where=sa.text("state = 'sending'"),
        sqlite_where=sa.text("state = 'sending'"),
    )
    op.create_table(
        "submissions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("external_ref", sa.Text(), nullable=False),
        sa.Column("content_digest", sa.LargeBinary(), nullable=False),
        sa.Column("batch_id", sa.Text(), nullable=True),
        sa.Column("batch_row", sa.Integer(), nullable=True),
        sa.Column("policy_version", sa.Text(), nullable=False),
        sa.Column("category", sa.Text(), nullable=False),
        sa.Column("district", sa.Text(), nullable=False),
        sa.Column("unit_code", sa.Text(), nullable=False),
        sa.Column("agency", sa.Text(), nullable=False),
        sa.Column("window", sa.Text(), nullable=False),
        sa.Column("collector", sa.Text(), nullable=False),
        sa.Column("acceptance_no", sa.Text(), nullable=False),
        sa.Column("confirmed", sa.Boolean(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("photo_original", sa.Text(), nullable=False),
        sa.Column("photo_result", sa.Text(), nullable=True),
        sa.Column("received_at", Instant(), nullable=False),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_submissions_batch_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_submissions")),
        sa.UniqueConstraint("acceptance_no", name=op.f("uq_submissions_acceptance_no")),
        sa.UniqueConstraint("source", "external_ref", name=op.f("uq_submissions_source_external_ref")),
    )
    op.create_index(
        "ix_submissions_batch",
        "submissions",
        ["batch_id"],
        unique=False,
        postgresql_where=sa.text("batch_id IS NOT NULL"),
        sqlite_where=sa.text("batch_id IS NOT NULL"),
    )
    op.create_index(
        "ix_submissions_photo_original",
        "submissions",
        ["photo_original", "id"],
        unique=False,
        postgresql_where=sa.text("photo_original <> ''"),
        sqlite_where=sa.text("photo_original <> ''"),
    )
    op.create_index(
        "ix_submissions_photo_result",
        "submissions",
        ["photo_result"],
        unique=False,
        postgresql_where=sa.text("photo_result IS NOT NULL"),
        sqlite_where=sa.text("photo_result IS NOT NULL"),
    )
    op.create_table(
        "applications",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("person_id", sa.Text(), nullable=False),
        sa.Column("card_type", sa.Text(), nullable=False),
        sa.Column("region", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("priority", sa.Text(), nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("outlet", sa.Text(), nullable=False),
        sa.Column("bank_code", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=True),
        sa.Column("held_from", sa.Text(), nullable=True),
        sa.Column("ending", sa.Text(), nullable=True),
        sa.Column("reasons", Json, nullable=False),
        sa.Column("due_at", Instant(), nullable=False),
        sa.Column("updated_at", Instant(), nullable=False),
        sa.Column("work", sa.Text(), nullable=False),
        sa.Column("next_try_at", Instant(), nullable=True),
        sa.Column("lease_token", sa.Text(), nullable=True),
        sa.Column("lease_until", Instant(), nullable=True),
        sa.Column("lease_size", sa.Integer(), nullable=False),
        sa.Column("solo", sa.Boolean(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("crashes", sa.Integer(), nullable=False),
        sa.Column("station", sa.Text(), nullable=True),
        sa.Column("blank_serial", sa.Text(), nullable=True),
        sa.Column("card_number", sa.Text(), nullable=True),
        sa.Column("issued_on", sa.Date(), nullable=True),
        sa.Column("delivered_at", Instant(), nullable=True),
        sa.Column("notified_at", Instant(), nullable=True),
        sa.Column("collect_by", Instant(), nullable=True),
        sa.CheckConstraint("lane IN ('urgent', 'normal', 'bulk')", name=op.f("ck_applications_lane")),
        sa.CheckConstraint(
            "status IN ('received', 'validation', 'photo', 'account', 'personalisation', 'dispatch', 'delivered', 'notified', 'collected', 'uncollected', 'recalled', 'returned', 'reissued', 'destroyed', 'awaiting_correction', 'held', 'rejected', 'cancelled')",
            name=op.f("ck_applications_status"),
        ),
        sa.CheckConstraint(
            "work IN ('none', 'waiting', 'ready', 'queued', 'running', 'reconcile')", name=op.f("ck_applications_work")
        ),
        sa.ForeignKeyConstraint(["id"], ["submissions.id"], name=op.f("fk_applications_id")),
        sa.ForeignKeyConstraint(["person_id"], ["persons.id"], name=op.f("fk_applications_person_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_applications")),
    )
    op.create_index(
        "ix_applications_leased",
        "applications",
        ["lease_until"],
        unique=False,
        postgresql_where=sa.text("work IN ('queued', 'running')"),
        sqlite_where=sa.text("work IN ('queued', 'running')"),
    )
    op.create_index("ix_applications_person", "applications", ["person_id"], unique=False)
    op.create_index(
        "ix_applications_queued",
        "applications",
        ["stage", "lane"],
        unique=False,
        postgresql_where=sa.text("work = 'queued'"),
        sqlite_where=sa.text("work = 'queued'"),
    )
    op.create_index(
        "ix_applications_ready",
        "applications",
        ["stage", "lane", "due_at", "id"],
        unique=False,
        postgresql_where=sa.text("work = 'ready'"),
        sqlite_where=sa.text("work = 'ready'"),
    )
    op.create_index(
        "ix_applications_reconcile",
        "applications",
        ["stage", "station"],
        unique=False,
        postgresql_where=sa.text("work = 'reconcile'"),
        sqlite_where=sa.text("work = 'reconcile'"),
    )
    op.create_index(
        "ix_applications_waiting",
        "applications",
        ["next_try_at"],
        unique=False,
        postgresql_where=sa.text("work = 'waiting' AND next_try_at IS NOT NULL"),
        sqlite_where=sa.text("work = 'waiting' AND next_try_at IS NOT NULL"),
    )
    op.create_index(
        "uq_applications_live",
        "applications",
        ["person_id", "card_type"],
        unique=True,
        postgresql_where=sa.text(
            "status IN ('received', 'validation', 'photo', 'account', 'personalisation', 'dispatch', 'delivered', 'notified', 'uncollected', 'recalled', 'returned', 'reissued', 'awaiting_correction', 'held') AND (ending IS NULL OR ending <> 'abandoned')"
        ),
        sqlite_where=sa.text(
            "status IN ('received', 'validation', 'photo', 'account', 'personalisation', 'dispatch', 'delivered', 'notified', 'uncollected', 'recalled', 'returned', 'reissued', 'awaiting_correction', 'held') AND (ending IS NULL OR ending <> 'abandoned')"
        ),
    )
    op.create_table(
        "delivery_attempts",
        sa.Column("seq", BigId, autoincrement=True, nullable=False),
        sa.Column("delivery_id", sa.Text(), nullable=False),
        sa.Column("endpoint_id", sa.Text(), nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.Column("result", sa.Text(), nullable=False),
        sa.Column("status_code", sa.Integer(), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("request_headers", Json, nullable=False),
        sa.Column("response_headers", Json, nullable=True),
        sa.Column("response", sa.Text(), nullable=True),
        sa.Column("dns_ms", sa.Integer(), nullable=True),
        sa.Column("connect_ms", sa.Integer(), nullable=True),
        sa.Column("http_ms", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["delivery_id"], ["deliveries.id"], name=op.f("fk_delivery_attempts_delivery_id")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_delivery_attempts")),
    )
    op.create_index("ix_delivery_attempts_at", "delivery_attempts", ["at"], unique=False)
    op.create_index("ix_delivery_attempts_delivery", "delivery_attempts", ["delivery_id"], unique=False)
    op.create_table(
        "accounts",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("person_id", sa.Text(), nullable=False),
        sa.Column("bank_code", sa.Text(), nullable=False),
        sa.Column("application_id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("opened_at", Instant(), nullable=False),
        sa.Column("frozen_at", Instant(), nullable=True),
        sa.Column("closed_at", Instant(), nullable=True),
        sa.CheckConstraint("(status = 'closed') = (closed_at IS NOT NULL)", name=op.f("ck_accounts_closed")),
        sa.CheckConstraint("status IN ('open', 'closed')", name=op.f("ck_accounts_status")),
        sa.ForeignKeyConstraint(["application_id"], ["applications.id"], name=op.f("fk_accounts_application_id")),
        sa.ForeignKeyConstraint(["person_id"], ["persons.id"], name=op.f("fk_accounts_person_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_accounts")),
        sa.UniqueConstraint("key", name=op.f("uq_accounts_key")),
    )
    op.create_index(
        "uq_accounts_open",
        "accounts",
        ["person_id", "bank_code"],
        unique=True,
        postgresql_where=sa.text("status = 'open'"),
        sqlite_where=sa.text("status = 'open'"),
    )
    op.create_table(
        "blanks",
        sa.Column("serial", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("lot", sa.Text(), nullable=False),
        sa.Column("location", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("application_id", sa.Text(), nullable=True),
        sa.Column("station", sa.Text(), nullable=True),
        sa.Column("job_id", sa.Text(), nullable=True),
        sa.Column("received_at", Instant(), nullable=False),
        sa.Column("changed_at", Instant(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "state IN ('stocked', 'reserved', 'encoding', 'quarantined', 'bound', 'voided', 'spoiled', 'missing', 'test', 'destroyed')",
            name=op.f("ck_blanks_state"),
        ),
        sa.CheckConstraint(
            "state NOT IN ('reserved', 'encoding', 'quarantined', 'bound') OR (job_id IS NOT NULL AND (application_id IS NOT NULL OR state = 'quarantined'))",
            name=op.f("ck_blanks_bound_to"),
        ),
        sa.ForeignKeyConstraint(["application_id"], ["applications.id"], name=op.f("fk_blanks_application_id")),
        sa.ForeignKeyConstraint(["job_id"], ["production_jobs.id"], name=op.f("fk_blanks_job_id")),
        sa.PrimaryKeyConstraint("serial", name=op.f("pk_blanks")),
    )
    op.create_index(
        "ix_blanks_out",
        "blanks",
        ["job_id"],
        unique=False,
        postgresql_where=sa.text("state IN ('stocked', 'reserved', 'encoding', 'quarantined')"),
        sqlite_where=sa.text("state IN ('stocked', 'reserved', 'encoding', 'quarantined')"),
    )
    op.create_index(
        "ix_blanks_stocked",
        "blanks",
        ["type", "station", "serial"],
        unique=False,
        postgresql_where=sa.text("state = 'stocked'"),
        sqlite_where=sa.text("state = 'stocked'"),
    )
    op.create_index(
        "uq_blanks_application",
        "blanks",
        ["application_id"],
        unique=True,
        postgresql_where=sa.text("state IN ('reserved', 'encoding', 'quarantined', 'bound')"),
        sqlite_where=sa.text("state IN ('reserved', 'encoding', 'quarantined', 'bound')"),
    )
    op.create_table(
        "fees",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("application_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("amount_fen", sa.Integer(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("method", sa.Text(), nullable=True),
        sa.Column("receipt_no", sa.Text(), nullable=True),
        sa.Column("ground", sa.Text(), nullable=True),
        sa.Column("evidence", sa.Text(), nullable=True),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("settled_at", Instant(), nullable=True),
        sa.Column("settled_by", sa.Text(), nullable=True),
        sa.Column("refunded_at", Instant(), nullable=True),
        sa.Column("refunded_by", sa.Text(), nullable=True),
        sa.Column("refund_no", sa.Text(), nullable=True),
        sa.CheckConstraint("(status = 'due') = (settled_at IS NULL)", name=op.f("ck_fees_settled")),
        sa.CheckConstraint(
            "(status = 'refunded') = (refunded_at IS NOT NULL) AND (refunded_at IS NULL) = (refund_no IS NULL)",
            name=op.f("ck_fees_refunded"),
        ),
        sa.CheckConstraint("method IN ('bank', 'cash', 'online')", name=op.f("ck_fees_method")),
        sa.CheckConstraint(
            "status <> 'waived' OR (ground IS NOT NULL AND evidence IS NOT NULL)", name=op.f("ck_fees_evidence")
        ),
        sa.CheckConstraint("status IN ('due', 'paid', 'waived', 'refunded')", name=op.f("ck_fees_status")),
        sa.CheckConstraint(
            "status NOT IN ('paid', 'refunded') OR receipt_no IS NOT NULL", name=op.f("ck_fees_receipt")
        ),
        sa.CheckConstraint("amount_fen >= 0", name=op.f("ck_fees_amount")),
        sa.ForeignKeyConstraint(["application_id"], ["applications.id"], name=op.f("fk_fees_application_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fees")),
        sa.UniqueConstraint("application_id", "kind", name=op.f("uq_fees_application_id_kind")),
    )
    op.create_table(
        "notices",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("application_id", sa.Text(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("notified_at", Instant(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["application_id"], ["applications.id"], name=op.f("fk_notices_application_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notices")),
    )
    op.create_index("ix_notices_application", "notices", ["application_id"], unique=False)
    op.create_table(
        "objects_retired",
        sa.Column("application_id", sa.Text(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("retired_at", Instant(), nullable=False),
        sa.ForeignKeyConstraint(
            ["application_id"], ["applications.id"], name=op.f("fk_objects_retired_application_id")
        ),
        sa.PrimaryKeyConstraint("application_id", "object", name=op.f("pk_objects_retired")),
    )
    op.create_table(
        "photos",
        sa.Column("application_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("original", sa.Text(), nullable=False),
        sa.Column("picture", sa.Text(), nullable=True),
        sa.Column("profile", sa.Text(), nullable=False),
        sa.Column("profile_version", sa.Text(), nullable=False),
        sa.Column("background", sa.Text(), nullable=True),
        sa.Column("width_px", sa.Integer(), nullable=True),
        sa.Column("height_px", sa.Integer(), nullable=True),
        sa.Column("quality", sa.Integer(), nullable=True),
        sa.Column("bytes", sa.Integer(), nullable=True),
        sa.Column("findings", Json, nullable=False),
        sa.Column("measures", Json, nullable=False),
        sa.Column("geometry", Json, nullable=True),
        sa.Column("adjust", Json, nullable=True),
        sa.Column("run_at", Instant(), nullable=False),
        sa.Column("decided_by", sa.Text(), nullable=True),
        sa.Column("decided_at", Instant(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.CheckConstraint("background IN ('kept', 'whitened', 'replaced')", name=op.f("ck_photos_background")),
        sa.CheckConstraint("state <> 'approved' OR decided_by IS NOT NULL", name=op.f("ck_photos_approved")),
        sa.CheckConstraint(
            "state = 'rejected' OR picture IS NOT NULL OR original = ''", name=op.f("ck_photos_pictured")
        ),
        sa.CheckConstraint("state IN ('normalised', 'review', 'approved', 'rejected')", name=op.f("ck_photos_state")),
        sa.CheckConstraint(
            "state NOT IN ('normalised', 'review') OR decided_by IS NULL", name=op.f("ck_photos_undecided")
        ),
        sa.CheckConstraint(
            "(decided_by IS NULL) = (decided_at IS NULL) AND (decided_by IS NULL) = (note IS NULL)",
            name=op.f("ck_photos_signed"),
        ),
        sa.CheckConstraint(
            "picture IS NULL OR (background IS NOT NULL AND width_px IS NOT NULL AND height_px IS NOT NULL AND quality IS NOT NULL AND bytes IS NOT NULL AND bytes > 0)",
            name=op.f("ck_photos_measured"),
        ),
        sa.ForeignKeyConstraint(["application_id"], ["applications.id"], name=op.f("fk_photos_application_id")),
        sa.PrimaryKeyConstraint("application_id", name=op.f("pk_photos")),
    )
    op.create_index(
        "ix_photos_original",
        "photos",
        ["original"],
        unique=False,
        postgresql_where=sa.text("original <> ''"),
        sqlite_where=sa.text("original <> ''"),
    )
    op.create_index(
        "ix_photos_picture",
        "photos",
        ["picture"],
        unique=False,
        postgresql_where=sa.text("picture IS NOT NULL"),
        sqlite_where=sa.text("picture IS NOT NULL"),
    )
    op.create_index(
        "ix_photos_review",
        "photos",
        ["application_id"],
        unique=False,
        postgresql_where=sa.text("state = 'review'"),
        sqlite_where=sa.text("state = 'review'"),
    )
    op.create_table(
        "timers",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("application_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("due_at", Instant(), nullable=False),
        sa.Column("fired_at", Instant(), nullable=True),
        sa.Column("cancelled_at", Instant(), nullable=True),
        sa.ForeignKeyConstraint(["application_id"], ["applications.id"], name=op.f("fk_timers_application_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_timers")),
        sa.UniqueConstraint("application_id", "kind", "due_at", name=op.f("uq_timers_application_id_kind_due_at")),
    )
    op.create_index(
        "ix_timers_due",
        "timers",
        ["due_at"],
        unique=False,
        postgresql_where=sa.text("fired_at IS NULL AND cancelled_at IS NULL"),
        sqlite_where=sa.text("fired_at IS NULL AND cancelled_at IS NULL"),
    )
    op.create_table(
        "blank_ledger",
        sa.Column("seq", BigId, autoincrement=True, nullable=False),
        sa.Column("serial", sa.Text(), nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("application_id", sa.Text(), nullable=True),
        sa.Column("station", sa.Text(), nullable=True),
        sa.Column("job_id", sa.Text(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("witness", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("document", sa.Text(), nullable=True),
        sa.CheckConstraint("event <> 'destroyed' OR document IS NOT NULL", name=op.f("ck_blank_ledger_certified")),
        sa.CheckConstraint(
            "event IN ('received', 'issued', 'taken', 'untouched', 'quarantined', 'bound', 'voided', 'spoiled', 'returned', 'missing', 'found', 'destroyed')",
            name=op.f("ck_blank_ledger_event"),
        ),
        sa.CheckConstraint(
            "event NOT IN ('missing', 'found', 'destroyed') OR (witness IS NOT NULL AND reason IS NOT NULL)",
            name=op.f("ck_blank_ledger_witnessed"),
        ),
        sa.CheckConstraint("witness IS NULL OR witness <> actor", name=op.f("ck_blank_ledger_two_people")),
        sa.ForeignKeyConstraint(["serial"], ["blanks.serial"], name=op.f("fk_blank_ledger_serial")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_blank_ledger")),
    )
    op.create_index("ix_blank_ledger_event", "blank_ledger", ["event", "at"], unique=False)
    op.create_index(
        "ix_blank_ledger_job",
        "blank_ledger",
        ["job_id", "event"],
        unique=False,
        postgresql_where=sa.text("job_id IS NOT NULL"),
        sqlite_where=sa.text("job_id IS NOT NULL"),
    )
    op.create_index("ix_blank_ledger_serial", "blank_ledger", ["serial"], unique=False)
    op.create_table(
        "cards",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("application_id", sa.Text(), nullable=False),
        sa.Column("person_id", sa.Text(), nullable=False),
        sa.Column("card_type", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=True),
        sa.Column("blank_serial", sa.Text(), nullable=False),
        sa.Column("card_number", sa.Text(), nullable=False),
        sa.Column("chip_id", sa.Text(), nullable=False),
        sa.Column("issued_on", sa.Date(), nullable=False),
        sa.Column("expires_on", sa.Date(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("custody", sa.Text(), nullable=False),
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column("bundle_id", sa.Text(), nullable=True),
        sa.Column("slot", sa.Text(), nullable=True),
        sa.Column("face", sa.Text(), nullable=True),
        sa.Column("return_reason", sa.Text(), nullable=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("verified_at", Instant(), nullable=False),
        sa.Column("changed_at", Instant(), nullable=False),
        sa.CheckConstraint("(status = 'destroyed') = (custody = 'destroyed')", name=op.f("ck_cards_destroyed")),
        sa.CheckConstraint(
            "custody IN ('centre', 'courier', 'outlet', 'unit', 'holder', 'bank', 'lost', 'destroyed')",
            name=op.f("ck_cards_custody"),
        ),
        sa.CheckConstraint(
            "return_reason IN ('uncollected', 'recalled', 'misrouted', 'damaged', 'refused', 'wrong_data', 'unreadable')",
            name=op.f("ck_cards_return_reason"),
        ),
        sa.CheckConstraint(
            "status IN ('produced', 'voided', 'issued', 'active', 'frozen', 'cancelled', 'destroyed')",
            name=op.f("ck_cards_status"),
        ),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_cards_account_id")),
        sa.ForeignKeyConstraint(["application_id"], ["applications.id"], name=op.f("fk_cards_application_id")),
        sa.ForeignKeyConstraint(["blank_serial"], ["blanks.serial"], name=op.f("fk_cards_blank_serial")),
        sa.ForeignKeyConstraint(["bundle_id"], ["bundles.id"], name=op.f("fk_cards_bundle_id")),
        sa.ForeignKeyConstraint(["person_id"], ["persons.id"], name=op.f("fk_cards_person_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cards")),
        sa.UniqueConstraint("blank_serial", name=op.f("uq_cards_blank_serial")),
        sa.UniqueConstraint("card_number", name=op.f("uq_cards_card_number")),
    )
    op.create_index("ix_cards_account", "cards", ["account_id"], unique=False)
    op.create_index("ix_cards_bundle", "cards", ["bundle_id"], unique=False)
    op.create_index(
        "ix_cards_face",
        "cards",
        ["face"],
        unique=False,
        postgresql_where=sa.text("face IS NOT NULL"),
        sqlite_where=sa.text("face IS NOT NULL"),
    )
    op.create_index("ix_cards_person", "cards", ["person_id"], unique=False)
    op.create_index(
        "ix_cards_with_face",
        "cards",
        ["application_id"],
        unique=False,
        postgresql_where=sa.text("face IS NOT NULL"),
        sqlite_where=sa.text("face IS NOT NULL"),
    )
    op.create_index(
        "uq_cards_chip",
        "cards",
        ["chip_id"],
        unique=True,
        postgresql_where=sa.text("status <> 'voided'"),
        sqlite_where=sa.text("status <> 'voided'"),
    )
    op.create_index(
        "uq_cards_unvoided",
        "cards",
        ["application_id"],
        unique=True,
        postgresql_where=sa.text("status NOT IN ('voided', 'destroyed')"),
        sqlite_where=sa.text("status NOT IN ('voided', 'destroyed')"),
    )
    op.create_table(
        "custody_events",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("card_id", sa.Text(), nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.Column("giver", sa.Text(), nullable=False),
        sa.Column("giver_place", sa.Text(), nullable=False),
        sa.Column("taker", sa.Text(), nullable=False),
        sa.Column("taker_place", sa.Text(), nullable=False),
        sa.Column("bundle_id", sa.Text(), nullable=True),
        sa.Column("seal_no", sa.Text(), nullable=True),
        sa.Column("given_by", sa.Text(), nullable=False),
        sa.Column("taken_by", sa.Text(), nullable=False),
        sa.Column("previous", sa.Text(), nullable=True),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("given_by <> taken_by", name=op.f("ck_custody_events_two_parties")),
        sa.ForeignKeyConstraint(["card_id"], ["cards.id"], name=op.f("fk_custody_events_card_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_custody_events")),
        sa.UniqueConstraint("card_id", "previous", name=op.f("uq_custody_events_card_id_previous")),
    )
    op.create_index("ix_custody_events_card", "custody_events", ["card_id"], unique=False)
    op.create_index(
        "uq_custody_events_first",
        "custody_events",
        ["card_id"],
        unique=True,
        postgresql_where=sa.text("previous IS NULL"),
        sqlite_where=sa.text("previous IS NULL"),
    )
    op.create_table(
        "destruction_cards",
        sa.Column("destruction_id", sa.Text(), nullable=False),
        sa.Column("card_id", sa.Text(), nullable=False),
        sa.Column("open", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["card_id"], ["cards.id"], name=op.f("fk_destruction_cards_card_id")),
        sa.ForeignKeyConstraint(
            ["destruction_id"], ["destructions.id"], name=op.f("fk_destruction_cards_destruction_id")
        ),
        sa.PrimaryKeyConstraint("destruction_id", "card_id", name=op.f("pk_destruction_cards")),
    )
    op.create_index(
        "uq_destruction_cards_open",
        "destruction_cards",
        ["card_id"],
        unique=True,
        postgresql_where=sa.text("open"),
        sqlite_where=sa.text("open"),
    )
    op.create_table(
        "discrepancies",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("bundle_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("card_id", sa.Text(), nullable=True),
        sa.Column("serial", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("resolution", sa.Text(), nullable=True),
        sa.Column("opened_by", sa.Text(), nullable=False),
        sa.Column("opened_at", Instant(), nullable=False),
        sa.Column("settled_by", sa.Text(), nullable=True),
        sa.Column("settled_at", Instant(), nullable=True),
        sa.CheckConstraint(
            "(state = 'settled') = (resolution IS NOT NULL AND settled_by IS NOT NULL AND settled_at IS NOT NULL)",
            name=op.f("ck_discrepancies_settled"),
        ),
        sa.CheckConstraint("kind IN ('missing', 'extra', 'damaged', 'seal')", name=op.f("ck_discrepancies_kind")),
        sa.CheckConstraint("kind IN ('seal', 'extra') OR card_id IS NOT NULL", name=op.f("ck_discrepancies_whose")),
        sa.CheckConstraint(
            "resolution IN ('arrived', 'lost', 'sent_back', 'forwarded', 'not_ours', 'accepted')",
            name=op.f("ck_discrepancies_resolution"),
        ),
        sa.CheckConstraint("state IN ('open', 'settled')", name=op.f("ck_discrepancies_state")),
        sa.ForeignKeyConstraint(["bundle_id"], ["bundles.id"], name=op.f("fk_discrepancies_bundle_id")),
        sa.ForeignKeyConstraint(["card_id"], ["cards.id"], name=op.f("fk_discrepancies_card_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_discrepancies")),
    )
    op.create_index("ix_discrepancies_bundle", "discrepancies", ["bundle_id"], unique=False)
    op.create_index(
        "uq_discrepancies_open",
        "discrepancies",
        ["bundle_id", "kind", "serial"],
        unique=True,
        postgresql_where=sa.text("state = 'open'"),
        sqlite_where=sa.text("state = 'open'"),
    )
    op.create_table(
        "external_calls",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("application_id", sa.Text(), nullable=False),
        sa.Column("person_id", sa.Text(), nullable=False),
        sa.Column("system", sa.Text(), nullable=False),
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("settled_at", Instant(), nullable=True),
        sa.Column("code", sa.Text(), nullable=True),
        sa.Column("account_id", sa.Text(), nullable=True),
        sa.Column("card_id", sa.Text(), nullable=True),
        sa.Column("seq", sa.Integer(), nullable=True),
        sa.Column("next_try_at", Instant(), nullable=True),
        sa.Column("expected_by", Instant(), nullable=True),
        sa.Column("lease_token", sa.Text(), nullable=True),
        sa.Column("lease_until", Instant(), nullable=True),
        sa.Column("held", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "operation IN ('open_account', 'bind_card') OR (account_id IS NOT NULL AND seq IS NOT NULL)",
            name=op.f("ck_external_calls_about_account"),
        ),
        sa.CheckConstraint(
            "operation IN ('open_account', 'bind_card', 'card_produced', 'activate_financial', 'freeze_financial', 'release_financial', 'update_holder', 'close_account')",
            name=op.f("ck_external_calls_operation"),
        ),
        sa.CheckConstraint(
            "state IN ('intent', 'unknown', 'pending', 'not_received', 'done', 'declined', 'closed')",
            name=op.f("ck_external_calls_state"),
        ),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_external_calls_account_id")),
        sa.ForeignKeyConstraint(["application_id"], ["applications.id"], name=op.f("fk_external_calls_application_id")),
        sa.ForeignKeyConstraint(["card_id"], ["cards.id"], name=op.f("fk_external_calls_card_id")),
        sa.ForeignKeyConstraint(["person_id"], ["persons.id"], name=op.f("fk_external_calls_person_id")),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_external_calls")),
        sa.UniqueConstraint("account_id", "seq", name=op.f("uq_external_calls_account_id_seq")),
    )
    op.create_index("ix_external_calls_application", "external_calls", ["application_id"], unique=False)
    op.create_index(
        "ix_external_calls_desk",
        "external_calls",
        ["account_id", "seq"],
        unique=False,
        postgresql_where=sa.text("seq IS NOT NULL AND state NOT IN ('done', 'declined', 'closed')"),
        sqlite_where=sa.text("seq IS NOT NULL AND state NOT IN ('done', 'declined', 'closed')"),
    )
    op.create_index("ix_external_calls_person", "external_calls", ["person_id", "system"], unique=False)
    op.create_index(
        "ix_external_calls_stage",
        "external_calls",
        ["created_at"],
        unique=False,
        postgresql_where=sa.text("seq IS NULL AND state IN ('intent', 'unknown', 'pending')"),
        sqlite_where=sa.text("seq IS NULL AND state IN ('intent', 'unknown', 'pending')"),
    )
    op.create_table(
        "hand_overs",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("card_id", sa.Text(), nullable=False),
        sa.Column("application_id", sa.Text(), nullable=False),
        sa.Column("taken_by", sa.Text(), nullable=False),
        sa.Column("document_type", sa.Text(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("collected_at", Instant(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=True),
        sa.Column("status_before", sa.Text(), nullable=False),
        sa.Column("reverted_at", Instant(), nullable=True),
        sa.Column("reverted_by", sa.Text(), nullable=True),
        sa.Column("revert_reason", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "(reverted_at IS NULL) = (reverted_by IS NULL) AND (reverted_at IS NULL) = (revert_reason IS NULL)",
            name=op.f("ck_hand_overs_reverted"),
        ),
        sa.ForeignKeyConstraint(["application_id"], ["applications.id"], name=op.f("fk_hand_overs_application_id")),
        sa.ForeignKeyConstraint(["card_id"], ["cards.id"], name=op.f("fk_hand_overs_card_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hand_overs")),
        sa.UniqueConstraint("key", name=op.f("uq_hand_overs_key")),
    )
    op.create_index(
        "uq_hand_overs_standing",
        "hand_overs",
        ["card_id"],
        unique=True,
        postgresql_where=sa.text("reverted_at IS NULL"),
        sqlite_where=sa.text("reverted_at IS NULL"),
    )


def downgrade() -> None:
    """Drop every table."""
    op.drop_index(
        "uq_hand_overs_standing",
        table_name="hand_overs",
        postgresql_where=sa.text("reverted_at IS NULL"),
        sqlite_where=sa.text("reverted_at IS NULL"),
    )
    op.drop_table("hand_overs")
    op.drop_index(
        "ix_external_calls_stage",
        table_name="external_calls",
        postgresql_where=sa.text("seq IS NULL AND state IN ('intent', 'unknown', 'pending')"),
        sqlite_where=sa.text("seq IS NULL AND state IN ('intent', 'unknown', 'pending')"),
    )
    op.drop_index("ix_external_calls_person", table_name="external_calls")
    op.drop_index(
        "ix_external_calls_desk",
        table_name="external_calls",
        postgresql_where=sa.text("seq IS NOT NULL AND state NOT IN ('done', 'declined', 'closed')"),
        sqlite_where=sa.text("seq IS NOT NULL AND state NOT IN ('done', 'declined', 'closed')"),
    )
    op.drop_index("ix_external_calls_application", table_name="external_calls")
    op.drop_table("external_calls")
    op.drop_index(
        "uq_discrepancies_open",
        table_name="discrepancies",
        postgresql_where=sa.text("state = 'open'"),
        sqlite_where=sa.text("state = 'open'"),
    )
    op.drop_index("ix_discrepancies_bundle", table_name="discrepancies")
    op.drop_table("discrepancies")
    op.drop_index(
        "uq_destruction_cards_open",
        table_name="destruction_cards",
        postgresql_where=sa.text("open"),
        sqlite_where=sa.text("open"),
    )
    op.drop_table("destruction_cards")
    op.drop_index(
        "uq_custody_events_first",
        table_name="custody_events",
        postgresql_where=sa.text("previous IS NULL"),
        sqlite_where=sa.text("previous IS NULL"),
    )
    op.drop_index("ix_custody_events_card", table_name="custody_events")
    op.drop_table("custody_events")
    op.drop_index(
        "uq_cards_unvoided",
        table_name="cards",
        postgresql_where=sa.text("status NOT IN ('voided', 'destroyed')"),
        sqlite_where=sa.text("status NOT IN ('voided', 'destroyed')"),
    )
    op.drop_index(
        "uq_cards_chip",
        table_name="cards",
        postgresql_where=sa.text("status <> 'voided'"),
        sqlite_where=sa.text("status <> 'voided'"),
    )
    op.drop_index(
        "ix_cards_with_face",
        table_name="cards",
        postgresql_where=sa.text("face IS NOT NULL"),
        sqlite_where=sa.text("face IS NOT NULL"),
    )
    op.drop_index("ix_cards_person", table_name="cards")
    op.drop_index(
        "ix_cards_face",
        table_name="cards",
        postgresql_where=sa.text("face IS NOT NULL"),
        sqlite_where=sa.text("face IS NOT NULL"),
    )
    op.drop_index("ix_cards_bundle", table_name="cards")
    op.drop_index("ix_cards_account", table_name="cards")
    op.drop_table("cards")
    op.drop_index("ix_blank_ledger_serial", table_name="blank_ledger")
    op.drop_index(
        "ix_blank_ledger_job",
        table_name="blank_ledger",
        postgresql_where=sa.text("job_id IS NOT NULL"),
        sqlite_where=sa.text("job_id IS NOT NULL"),
    )
    op.drop_index("ix_blank_ledger_event", table_name="blank_ledger")
    op.drop_table("blank_ledger")
    op.drop_index(
        "ix_timers_due",
        table_name="timers",
        postgresql_where=sa.text("fired_at IS NULL AND cancelled_at IS NULL"),
        sqlite_where=sa.text("fired_at IS NULL AND cancelled_at IS NULL"),
    )
    op.drop_table("timers")
    op.drop_index(
        "ix_photos_review",
        table_name="photos",
        postgresql_where=sa.text("state = 'review'"),
        sqlite_where=sa.text("state = 'review'"),
    )
    op.drop_index(
        "ix_photos_picture",
        table_name="photos",
        postgresql_where=sa.text("picture IS NOT NULL"),
        sqlite_where=sa.text("picture IS NOT NULL"),
    )
    op.drop_index(
        "ix_photos_original",
        table_name="photos",
        postgresql_where=sa.text("original <> ''"),
        sqlite_where=sa.text("original <> ''"),
    )
    op.drop_table("photos")
    op.drop_table("objects_retired")
    op.drop_index("ix_notices_application", table_name="notices")
    op.drop_table("notices")
    op.drop_table("fees")
    op.drop_index(
        "uq_blanks_application",
        table_name="blanks",
        postgresql_where=sa.text("state IN ('reserved', 'encoding', 'quarantined', 'bound')"),
        sqlite_where=sa.text("state IN ('reserved', 'encoding', 'quarantined', 'bound')"),
    )
    op.drop_index(
        "ix_blanks_stocked",
        table_name="blanks",
        postgresql_where=sa.text("state = 'stocked'"),
        sqlite_where=sa.text("state = 'stocked'"),
    )
    op.drop_index(
        "ix_blanks_out",
        table_name="blanks",
        postgresql_where=sa.text("state IN ('stocked', 'reserved', 'encoding', 'quarantined')"),
        sqlite_where=sa.text("state IN ('stocked', 'reserved', 'encoding', 'quarantined')"),
    )
    op.drop_table("blanks")
    op.drop_index(
        "uq_accounts_open",
        table_name="accounts",
        postgresql_where=sa.text("status = 'open'"),
        sqlite_where=sa.text("status = 'open'"),
    )
    op.drop_table("accounts")
    op.drop_index("ix_delivery_attempts_delivery", table_name="delivery_attempts")
    op.drop_index("ix_delivery_attempts_at", table_name="delivery_attempts")
    op.drop_table("delivery_attempts")
    op.drop_index(
        "uq_applications_live",
        table_name="applications",
        postgresql_where=sa.text(
            "status IN ('received', 'validation', 'photo', 'account', 'personalisation', 'dispatch', 'delivered', 'notified', 'uncollected', 'recalled', 'returned', 'reissued', 'awaiting_correction', 'held') AND (ending IS NULL OR ending <> 'abandoned')"
        ),
        sqlite_where=sa.text(
            "status IN ('received', 'validation', 'photo', 'account', 'personalisation', 'dispatch', 'delivered', 'notified', 'uncollected', 'recalled', 'returned', 'reissued', 'awaiting_correction', 'held') AND (ending IS NULL OR ending <> 'abandoned')"
        ),
    )
    op.drop_index(
        "ix_applications_waiting",
        table_name="applications",
        postgresql_where=sa.text("work = 'waiting' AND next_try_at IS NOT NULL"),
        sqlite_where=sa.text("work = 'waiting' AND next_try_at IS NOT NULL"),
    )
    op.drop_index(
        "ix_applications_reconcile",
        table_name="applications",
        postgresql_where=sa.text("work = 'reconcile'"),
        sqlite_where=sa.text("work = 'reconcile'"),
    )
    op.drop_index(
        "ix_applications_ready",
        table_name="applications",
        postgresql_where=sa.text("work = 'ready'"),
        sqlite_where=sa.text("work = 'ready'"),
    )
    op.drop_index(
        "ix_applications_queued",
        table_name="applications",
        postgresql_where=sa.text("work = 'queued'"),
        sqlite_where=sa.text("work = 'queued'"),
    )
    op.drop_index("ix_applications_person", table_name="applications")
    op.drop_index(
        "ix_applications_leased",
        table_name="applications",
        postgresql_where=sa.text("work IN ('queued', 'running')"),
        sqlite_where=sa.text("work IN ('queued', 'running')"),
    )
    op.drop_table("applications")
    op.drop_index(
        "ix_submissions_photo_result",
        table_name="submissions",
        postgresql_where=sa.text("photo_result IS NOT NULL"),
        sqlite_where=sa.text("photo_result IS NOT NULL"),
    )
    op.drop_index(
        "ix_submissions_photo_original",
        table_name="submissions",
        postgresql_where=sa.text("photo_original <> ''"),
        sqlite_where=sa.text("photo_original <> ''"),
    )
    op.drop_index(
        "ix_submissions_batch",
        table_name="submissions",
        postgresql_where=sa.text("batch_id IS NOT NULL"),
        sqlite_where=sa.text("batch_id IS NOT NULL"),
    )
    op.drop_table("submissions")
    op.drop_index(
        "ix_deliveries_leased",
        table_name="deliveries",
        postgresql_where=sa.text("state = 'sending'"),
        sqlite_where=sa.text("state = 'sending'"),
    )
    op.drop_index(
        "ix_deliveries_due",
        table_name="deliveries",
        postgresql_where=sa.text("state = 'waiting'"),
        sqlite_where=sa.text("state = 'waiting'"),
    )
    op.drop_table("deliveries")
    op.drop_table("batch_errors")
    op.drop_index(
        "ix_bank_file_rows_taken",
        table_name="bank_file_rows",
        postgresql_where=sa.text("state = 'taken'"),
        sqlite_where=sa.text("state = 'taken'"),
    )
    op.drop_index("ix_bank_file_rows_person", table_name="bank_file_rows")
    op.drop_index("ix_bank_file_rows_answered", table_name="bank_file_rows")
    op.drop_table("bank_file_rows")
    op.drop_index("ix_webhook_endpoints_outlet", table_name="webhook_endpoints")
    op.drop_table("webhook_endpoints")
    op.drop_index("ix_transitions_application", table_name="transitions")
    op.drop_table("transitions")
    op.drop_table("stage_control")
    op.drop_table("roles")
    op.drop_table("production_jobs")
    op.drop_table("persons")
    op.drop_table("outlet_queues")
    op.drop_index(
        "ix_outbox_unplaced",
        table_name="outbox",
        postgresql_where=sa.text("position IS NULL"),
        sqlite_where=sa.text("position IS NULL"),
    )
    op.drop_index(
        "ix_outbox_outlet",
        table_name="outbox",
        postgresql_where=sa.text("position IS NOT NULL"),
        sqlite_where=sa.text("position IS NOT NULL"),
    )
    op.drop_table("outbox")
    op.drop_table("number_ranges")
    op.drop_table("encoders")
    op.drop_table("destructions")
    op.drop_table("data_keys")
    op.drop_index("ix_command_answers_created_at", table_name="command_answers")
    op.drop_table("command_answers")
    op.drop_index(
        "uq_bundles_packing",
        table_name="bundles",
        postgresql_where=sa.text("status = 'packing'"),
        sqlite_where=sa.text("status = 'packing'"),
    )
    op.drop_index(
        "ix_bundles_under_way",
        table_name="bundles",
        postgresql_where=sa.text("status IN ('shipped', 'received', 'disputed')"),
        sqlite_where=sa.text("status IN ('shipped', 'received', 'disputed')"),
    )
    op.drop_table("bundles")
    op.drop_table("batches")
    op.drop_index(
        "uq_bank_files_batch",
        table_name="bank_files",
        postgresql_where=sa.text("direction = 'out'"),
        sqlite_where=sa.text("direction = 'out'"),
    )
    op.drop_table("bank_files")
    op.drop_table("bank_cursors")
    op.drop_index(
        "ix_audit_unsealed",
        table_name="audit",
        postgresql_where=sa.text("seq IS NULL"),
        sqlite_where=sa.text("seq IS NULL"),
    )
    op.drop_table("audit")
