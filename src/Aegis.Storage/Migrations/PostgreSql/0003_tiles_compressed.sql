-- What is kept with a tile's leaves is more than half as large as need be: hashes and salts cannot be compressed, the names and
-- the log_id that neighbouring records share can. By lz4, which costs less than the pages it saves; where PostgreSQL was built
-- without it nothing changes. Tiles that are there stay as they are, and every version reads both.
DO $body$
BEGIN
    IF EXISTS (SELECT 1 FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)) THEN
        ALTER TABLE log_tile ALTER COLUMN entries SET STORAGE EXTENDED;
        EXECUTE 'ALTER TABLE log_tile ALTER COLUMN entries SET COMPRESSION lz4';
    END IF;
END
$body$;
