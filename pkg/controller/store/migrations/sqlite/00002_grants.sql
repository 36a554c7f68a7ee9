-- +goose Up

-- Tasks at once of submitters whose tokens say how many.
CREATE TABLE quotas (
    submitter TEXT   NOT NULL PRIMARY KEY,
    tasks     BIGINT NOT NULL
);

-- Tokens that are good for a number of runs, and those that they started.
CREATE TABLE spent (
    token TEXT   NOT NULL, -- what identifies it, not itself
    nth   BIGINT NOT NULL, -- of its runs, from 1; two at once cannot be the same
    run   TEXT   NOT NULL,
    until BIGINT NOT NULL, -- it is good
    PRIMARY KEY (token, nth)
);
CREATE INDEX spent_until ON spent (until);

-- +goose Down
DROP TABLE spent;
DROP TABLE quotas;
