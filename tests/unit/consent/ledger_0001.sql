BEGIN TRANSACTION;
CREATE TABLE ledger_found (
    scope INTEGER NOT NULL,
    number BIGINT NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (scope, number)
) WITHOUT ROWID;
CREATE TABLE ledger_imports (
    scope INTEGER NOT NULL,
    number BIGINT NOT NULL,
    file_name TEXT NOT NULL,
    execution TEXT,
    state TEXT NOT NULL,
    began BIGINT NOT NULL,
    ended BIGINT,
    PRIMARY KEY (scope, number)
);
INSERT INTO "ledger_imports" VALUES(1,1,'file.csv',NULL,'prepared',1790000000000000,NULL);
CREATE TABLE ledger_info (
    id TEXT NOT NULL,
    created BIGINT NOT NULL,
    key_check TEXT NOT NULL,
    PRIMARY KEY (id)
);
INSERT INTO "ledger_info" VALUES('960607a4b917ffd3cd25ce9c3f84c031',1795602458978682,'bc06ffd0a79a3a0d');
CREATE TABLE ledger_leases (
    scope INTEGER NOT NULL,
    direction TEXT NOT NULL,
    holder TEXT NOT NULL,
    PRIMARY KEY (scope, direction)
);
CREATE TABLE ledger_looks (
    scope INTEGER NOT NULL,
    began BIGINT NOT NULL,
    ended BIGINT NOT NULL,
    places TEXT NOT NULL,
    profiles BIGINT NOT NULL,
    PRIMARY KEY (scope)
);
INSERT INTO "ledger_looks" VALUES(1,1790000000000000,1790000000000001,'a:subscription:News',1);
CREATE TABLE ledger_names (
    scope INTEGER NOT NULL,
    kind TEXT NOT NULL,
    number BIGINT NOT NULL,
    name TEXT NOT NULL,
    PRIMARY KEY (scope, kind, number),
    UNIQUE (scope, kind, name)
) WITHOUT ROWID;
INSERT INTO "ledger_names" VALUES(1,'field',0,'["consents","channels","email","enabled","a:subscription:News"]');
INSERT INTO "ledger_names" VALUES(1,'path',0,'["consents","channels","email","enabled"]');
CREATE TABLE ledger_people (
    scope INTEGER NOT NULL,
    person TEXT NOT NULL,
    owed INTEGER NOT NULL,
    due BIGINT NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (scope, person)
) WITHOUT ROWID;
INSERT INTO "ledger_people" VALUES(1,'anna@example.com',5,1790000000000000,X'990193CF00065BFEDA25E000FBFF950000000001919600010201000092019196000000000100C0B0416E6E61406578616D706C652E636F6DA13781A661637469746F95AE6368616E67655F7265667573656403CF00065BFEDA25E000CF00065BFEDA25E000A5776F726473');
CREATE TABLE ledger_rejects (
    scope INTEGER NOT NULL,
    number BIGINT NOT NULL,
    state TEXT NOT NULL,
    code TEXT NOT NULL,
    person TEXT,
    opt_out BOOLEAN NOT NULL,
    due BIGINT NOT NULL,
    digest TEXT NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (scope, number)
);
INSERT INTO "ledger_rejects" VALUES(1,1,'open','invalid_line',NULL,1,1790000000000000,'95af781df162768021699584',X'83A6726561736F6EAD63616E27742062652072656164A866697273745F6174CF00065BFEDA25E000A3726177C4046C696E65');
CREATE TABLE ledger_requests (
    account TEXT NOT NULL,
    at BIGINT NOT NULL,
    process TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (account, at, process)
) WITHOUT ROWID;
CREATE TABLE ledger_runs (
    scope INTEGER NOT NULL,
    number BIGINT NOT NULL,
    plugin TEXT NOT NULL,
    direction TEXT NOT NULL,
    process TEXT NOT NULL,
    began BIGINT NOT NULL,
    ended BIGINT,
    outcome TEXT,
    PRIMARY KEY (scope, number)
);
INSERT INTO "ledger_runs" VALUES(1,1,'target-actito','forward','host, process 1',1795602458984290,1795602458984822,'exit 0');
CREATE TABLE ledger_scopes (
    number BIGINT NOT NULL,
    name TEXT NOT NULL,
    organization TEXT NOT NULL,
    regulation TEXT NOT NULL,
    entity TEXT NOT NULL,
    table_name TEXT NOT NULL,
    event_text TEXT,
    matching TEXT,
    imports BIGINT NOT NULL,
    found BIGINT NOT NULL,
    runs BIGINT NOT NULL,
    rejects BIGINT NOT NULL,
    PRIMARY KEY (number),
    UNIQUE (name)
);
INSERT INTO "ledger_scopes" VALUES(1,'','org','gdpr','entity','people',NULL,NULL,1,0,1,1);
CREATE TABLE ledger_version (
    version_num VARCHAR(32) NOT NULL,
    PRIMARY KEY (version_num)
);
INSERT INTO "ledger_version" VALUES('0001');
CREATE INDEX ledger_people_owed ON ledger_people (scope, person, owed, due) WHERE owed > 0;
CREATE INDEX ledger_rejects_digest ON ledger_rejects (scope, digest);
COMMIT;
