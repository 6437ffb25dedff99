-- PostgreSQL tells a writer from here on whether another has come between. Here nobody can: there is nothing to do.
SELECT 1;
