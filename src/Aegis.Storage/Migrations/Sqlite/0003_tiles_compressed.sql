-- PostgreSQL compresses from here on what is kept with a tile's leaves. SQLite compresses nothing: here there is nothing to do.
SELECT 1;
