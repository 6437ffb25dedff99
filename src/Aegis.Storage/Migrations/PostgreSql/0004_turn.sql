-- A server that wrote last need not read again what it wrote, as long as nobody else has come between. Whoever changes heads of
-- workflows, leases or violations moves this sequence under the lock of the log: servers of this version by themselves, all
-- others, those of the version before and hands, by the triggers. It is no row, since one that each batch updates would bloat
-- under any long snapshot; that it moves also for a transaction that is then rolled back costs a look. A hand that has not locked
-- log_lock first may be overwritten by a server that still remembers what was there before.
CREATE SEQUENCE log_turn;
-- Its last_value is 1 before the first value is taken and after.
SELECT nextval('log_turn');

CREATE FUNCTION take_turn() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    PERFORM nextval('log_turn');
    RETURN NULL;
END
$body$;

CREATE TRIGGER workflow_takes_turn AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON workflow
    FOR EACH STATEMENT WHEN (current_setting('aegis.takes_turns', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION take_turn();
CREATE TRIGGER lease_takes_turn AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON lease
    FOR EACH STATEMENT WHEN (current_setting('aegis.takes_turns', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION take_turn();
CREATE TRIGGER violation_takes_turn AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON violation
    FOR EACH STATEMENT WHEN (current_setting('aegis.takes_turns', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION take_turn();
-- Also for who has switched the triggers of the history off.
ALTER TABLE workflow ENABLE ALWAYS TRIGGER workflow_takes_turn;
ALTER TABLE lease ENABLE ALWAYS TRIGGER lease_takes_turn;
ALTER TABLE violation ENABLE ALWAYS TRIGGER violation_takes_turn;

-- Ends a transaction whose statements were all sent before anything was known of it.
CREATE FUNCTION go_on_if(is_as_remembered boolean) RETURNS void LANGUAGE plpgsql AS $body$
BEGIN
    IF is_as_remembered IS NOT TRUE THEN
        RAISE EXCEPTION 'another has had the log' USING ERRCODE = 'AE001';
    END IF;
END
$body$;
