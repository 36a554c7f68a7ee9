-- +goose Up

-- The same tables as in SQLite; text is compared by its bytes here too. Rows that
-- change often have room beside them for their next version.

-- Times are microseconds since 1970 in UTC, 0 for never; durations are microseconds.
CREATE TABLE runs (
    id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    state      TEXT COLLATE "C" NOT NULL,
    reason     TEXT COLLATE "C" NOT NULL,
    runner     TEXT COLLATE "C" NOT NULL,
    submitter  TEXT COLLATE "C" NOT NULL,
    priority   BIGINT NOT NULL,
    labels     TEXT COLLATE "C" NOT NULL, -- JSON object
    context    TEXT COLLATE "C" NOT NULL,
    head       TEXT COLLATE "C" NOT NULL,
    retry_of   TEXT COLLATE "C" NOT NULL,
    trace      TEXT COLLATE "C" NOT NULL,
    created    BIGINT NOT NULL,
    started    BIGINT NOT NULL,
    finished   BIGINT NOT NULL,
    timeout    BIGINT NOT NULL,
    stop_state TEXT COLLATE "C" NOT NULL, -- what it ends as, because it was told to; empty: it was not
    images     BIGINT NOT NULL, -- how many
    unended    BIGINT NOT NULL, -- of them
    lines      BIGINT NOT NULL, -- of its log
    log        TEXT COLLATE "C" NOT NULL, -- where the log is: rows, leaving, blob, expired
    log_index  BYTEA, -- of the log in the blob store
    idem_key   TEXT COLLATE "C",
    idem_seal  BYTEA, -- sealed hash of the request
    serial     BIGINT NOT NULL  -- 1: one image after another
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX runs_idem ON runs (submitter, idem_key);
CREATE INDEX runs_state ON runs (state, id);
CREATE INDEX runs_submitter ON runs (submitter, state, id);
CREATE INDEX runs_log ON runs (log, finished);
CREATE INDEX runs_finished ON runs (finished);

-- What a run works with; goes earlier than the run.
CREATE TABLE inputs (
    run    TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    plan   BYTEA NOT NULL,
    sealed BYTEA
);

CREATE TABLE labels (
    name  TEXT COLLATE "C" NOT NULL,
    value TEXT COLLATE "C" NOT NULL,
    run   TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (name, value, run)
);

CREATE TABLE images (
    run       TEXT COLLATE "C" NOT NULL,
    position  BIGINT NOT NULL, -- in the plan
    name      TEXT COLLATE "C" NOT NULL,
    state     TEXT COLLATE "C" NOT NULL,
    reason    TEXT COLLATE "C" NOT NULL,
    published BYTEA, -- JSON
    missing   BIGINT NOT NULL, -- needs that are not published
    PRIMARY KEY (run, position)
) WITH (fillfactor = 70);
CREATE INDEX images_name ON images (name, run);

CREATE TABLE needs (
    run   TEXT COLLATE "C" NOT NULL,
    need  BIGINT NOT NULL, -- position of the image that is needed
    image BIGINT NOT NULL, -- by this one
    PRIMARY KEY (run, need, image)
);
CREATE INDEX needs_image ON needs (run, image);

CREATE TABLE tasks (
    id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    run        TEXT COLLATE "C" NOT NULL,
    number     BIGINT NOT NULL,
    attempt    BIGINT NOT NULL,
    image      BIGINT NOT NULL, -- position
    build      TEXT COLLATE "C" NOT NULL, -- empty: a publication
    platform   TEXT COLLATE "C" NOT NULL,
    runner     TEXT COLLATE "C" NOT NULL, -- empty: a publication
    submitter  TEXT COLLATE "C" NOT NULL,
    place      BIGINT NOT NULL, -- the priority, negated: lower goes first
    state      TEXT COLLATE "C" NOT NULL,
    ready      BIGINT NOT NULL, -- 1: all that it needs is there
    not_before BIGINT NOT NULL,
    reason     TEXT COLLATE "C" NOT NULL,
    history    TEXT COLLATE "C" NOT NULL, -- JSON objects with commas between
    digest     TEXT COLLATE "C" NOT NULL,
    cpu        BIGINT NOT NULL, -- microseconds
    memory     BIGINT NOT NULL, -- bytes
    result     BYTEA, -- JSON
    owner      TEXT COLLATE "C" NOT NULL, -- controller that looks after it
    agent      TEXT COLLATE "C" NOT NULL, -- that claimed it
    beat       BIGINT NOT NULL, -- signs of life
    stop_state TEXT COLLATE "C" NOT NULL, -- what it ends as once its agent is gone; empty: it goes on
    stop       TEXT COLLATE "C" NOT NULL, -- why
    changed    BIGINT NOT NULL, -- when it came to its state
    timeout    BIGINT NOT NULL,
    deadline   BIGINT NOT NULL, -- set by the claim
    lines      BIGINT NOT NULL, -- of its log that are there
    bytes      BIGINT NOT NULL
) WITH (fillfactor = 50);
CREATE INDEX tasks_run ON tasks (run, image, number, attempt);
CREATE INDEX tasks_queue ON tasks (state, ready, runner, submitter, place, run, number);
CREATE INDEX tasks_owner ON tasks (owner, state);

CREATE TABLE tokens (
    hash BYTEA NOT NULL PRIMARY KEY, -- SHA-256
    task TEXT COLLATE "C" NOT NULL
);
CREATE INDEX tokens_task ON tokens (task);

-- Pieces of the logs of runs, until they go to the blob store.
CREATE TABLE chunks (
    run   TEXT COLLATE "C" NOT NULL,
    first BIGINT NOT NULL, -- seq of the first line
    count BIGINT NOT NULL,
    build TEXT COLLATE "C" NOT NULL,
    data  BYTEA NOT NULL,
    PRIMARY KEY (run, first)
);

CREATE TABLE contexts (
    digest TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    size   BIGINT NOT NULL,
    state  TEXT COLLATE "C" NOT NULL, -- there, leaving
    used   BIGINT NOT NULL
);
CREATE INDEX contexts_used ON contexts (used);

-- Controllers that share the database.
CREATE TABLE controllers (
    name  TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    epoch TEXT COLLATE "C" NOT NULL, -- of this process among those of the same name
    beat  BIGINT NOT NULL  -- signs of life
) WITH (fillfactor = 50);

ALTER TABLE chunks ALTER COLUMN data SET STORAGE EXTERNAL; -- it is compressed already

-- +goose Down
DROP TABLE controllers;
DROP TABLE contexts;
DROP TABLE chunks;
DROP TABLE tokens;
DROP TABLE tasks;
DROP TABLE needs;
DROP TABLE images;
DROP TABLE labels;
DROP TABLE inputs;
DROP TABLE runs;
