-- +goose Up

-- Times are microseconds since 1970 in UTC, 0 for never; durations are microseconds.
CREATE TABLE runs (
    id         TEXT   NOT NULL PRIMARY KEY,
    state      TEXT   NOT NULL,
    reason     TEXT   NOT NULL,
    runner     TEXT   NOT NULL,
    submitter  TEXT   NOT NULL,
    priority   BIGINT NOT NULL,
    labels     TEXT   NOT NULL, -- JSON object
    context    TEXT   NOT NULL,
    head       TEXT   NOT NULL,
    retry_of   TEXT   NOT NULL,
    trace      TEXT   NOT NULL,
    created    BIGINT NOT NULL,
    started    BIGINT NOT NULL,
    finished   BIGINT NOT NULL,
    timeout    BIGINT NOT NULL,
    stop_state TEXT   NOT NULL, -- what it ends as, because it was told to; empty: it was not
    images     BIGINT NOT NULL, -- how many
    unended    BIGINT NOT NULL, -- of them
    lines      BIGINT NOT NULL, -- of its log
    log        TEXT   NOT NULL, -- where the log is: rows, leaving, blob, expired
    log_index  BLOB,            -- of the log in the blob store
    idem_key   TEXT,
    idem_seal  BLOB,            -- sealed hash of the request
    serial     BIGINT NOT NULL  -- 1: one image after another
);
CREATE UNIQUE INDEX runs_idem ON runs (submitter, idem_key);
CREATE INDEX runs_state ON runs (state, id);
CREATE INDEX runs_submitter ON runs (submitter, state, id);
CREATE INDEX runs_log ON runs (log, finished);
CREATE INDEX runs_finished ON runs (finished);

-- What a run works with; goes earlier than the run.
CREATE TABLE inputs (
    run    TEXT NOT NULL PRIMARY KEY,
    plan   BLOB NOT NULL,
    sealed BLOB
);

CREATE TABLE labels (
    name  TEXT NOT NULL,
    value TEXT NOT NULL,
    run   TEXT NOT NULL,
    PRIMARY KEY (name, value, run)
);

CREATE TABLE images (
    run       TEXT   NOT NULL,
    position  BIGINT NOT NULL, -- in the plan
    name      TEXT   NOT NULL,
    state     TEXT   NOT NULL,
    reason    TEXT   NOT NULL,
    published BLOB,            -- JSON
    missing   BIGINT NOT NULL, -- needs that are not published
    PRIMARY KEY (run, position)
);
CREATE INDEX images_name ON images (name, run);

CREATE TABLE needs (
    run   TEXT   NOT NULL,
    need  BIGINT NOT NULL, -- position of the image that is needed
    image BIGINT NOT NULL, -- by this one
    PRIMARY KEY (run, need, image)
);
CREATE INDEX needs_image ON needs (run, image);

CREATE TABLE tasks (
    id         TEXT   NOT NULL PRIMARY KEY,
    run        TEXT   NOT NULL,
    number     BIGINT NOT NULL,
    attempt    BIGINT NOT NULL,
    image      BIGINT NOT NULL, -- position
    build      TEXT   NOT NULL, -- empty: a publication
    platform   TEXT   NOT NULL,
    runner     TEXT   NOT NULL, -- empty: a publication
    submitter  TEXT   NOT NULL,
    place      BIGINT NOT NULL, -- the priority, negated: lower goes first
    state      TEXT   NOT NULL,
    ready      BIGINT NOT NULL, -- 1: all that it needs is there
    not_before BIGINT NOT NULL,
    reason     TEXT   NOT NULL,
    history    TEXT   NOT NULL, -- JSON objects with commas between
    digest     TEXT   NOT NULL,
    cpu        BIGINT NOT NULL, -- microseconds
    memory     BIGINT NOT NULL, -- bytes
    result     BLOB,            -- JSON
    owner      TEXT   NOT NULL, -- controller that looks after it
    agent      TEXT   NOT NULL, -- that claimed it
    beat       BIGINT NOT NULL, -- signs of life
    stop_state TEXT   NOT NULL, -- what it ends as once its agent is gone; empty: it goes on
    stop       TEXT   NOT NULL, -- why
    changed    BIGINT NOT NULL, -- when it came to its state
    timeout    BIGINT NOT NULL,
    deadline   BIGINT NOT NULL, -- set by the claim
    lines      BIGINT NOT NULL, -- of its log that are there
    bytes      BIGINT NOT NULL
);
CREATE INDEX tasks_run ON tasks (run, image, number, attempt);
CREATE INDEX tasks_queue ON tasks (state, ready, runner, submitter, place, run, number);
CREATE INDEX tasks_owner ON tasks (owner, state);

CREATE TABLE tokens (
    hash BLOB NOT NULL PRIMARY KEY, -- SHA-256
    task TEXT NOT NULL
);
CREATE INDEX tokens_task ON tokens (task);

-- Pieces of the logs of runs, until they go to the blob store.
CREATE TABLE chunks (
    run   TEXT   NOT NULL,
    first BIGINT NOT NULL, -- seq of the first line
    count BIGINT NOT NULL,
    build TEXT   NOT NULL,
    data  BLOB   NOT NULL,
    PRIMARY KEY (run, first)
);

CREATE TABLE contexts (
    digest TEXT   NOT NULL PRIMARY KEY,
    size   BIGINT NOT NULL,
    state  TEXT   NOT NULL, -- there, leaving
    used   BIGINT NOT NULL
);
CREATE INDEX contexts_used ON contexts (used);

-- Controllers that share the database.
CREATE TABLE controllers (
    name  TEXT   NOT NULL PRIMARY KEY,
    epoch TEXT   NOT NULL, -- of this process among those of the same name
    beat  BIGINT NOT NULL  -- signs of life
);

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
