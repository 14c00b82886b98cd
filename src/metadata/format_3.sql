-- What format 3 adds to format 2.

-- Whether a frozen tree is there. One that is not is made from the blobs of its layers when somebody asks for it.
ALTER TABLE trees ADD COLUMN made INTEGER NOT NULL DEFAULT 1 CHECK (made = 1 OR (made = 0 AND state = 'frozen'));
