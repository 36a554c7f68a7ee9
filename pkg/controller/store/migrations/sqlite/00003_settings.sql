-- +goose Up

-- What all controllers that share the database must have in common.
CREATE TABLE settings (
    name  TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
);

-- The last transaction of each connection that writes: by it whoever got no
-- answer to a commit finds out whether it was made.
CREATE TABLE marks (
    writer TEXT NOT NULL PRIMARY KEY,
    mark   BIGINT NOT NULL,
    made   BIGINT NOT NULL
);

-- +goose Down
DROP TABLE marks;
DROP TABLE settings;
