"""The SQL checks of the verifier, which compare tables. The name of a check begins with an invariant of `verifier`.

Each statement selects (account id, message) for the violations in accounts $1 to $2. If the ledger is intact, it
selects nothing. Both sides of a comparison are limited to the range, so that the time for a range does not depend on
the size of the ledger.
"""

from typing import Final

# Selects the claims of hold h, each as [grant, credits]. Invalid claims are skipped: then the sums differ, which is
# reported.
_CLAIMS: Final = "jsonb_path_query(h.claims, 'strict $[*] ? (@[0] > 0 && @[1] > 0)', '{}', true)"

# Selects sums of the entries of each top-up: credits bought, returned in credits and debt, and the remaining bonus.
_OF_TOP_UPS: Final = """
    (SELECT account_id, top_up_id, sum(credits) FILTER (WHERE kind = 'TOP_UP') AS bought,
            coalesce(sum(owed - credits) FILTER (WHERE kind IN ('REFUND', 'DISPUTE_LOST', 'DEBT')), 0) AS returned,
            coalesce(sum(credits) FILTER (WHERE kind IN ('GRANT', 'ADJUSTMENT')), 0) AS bonus
     FROM entry WHERE account_id BETWEEN $1 AND $2 AND top_up_id IS NOT NULL GROUP BY account_id, top_up_id)
"""
_PAID: Final = "p.status IN ('PAID', 'REFUNDED', 'DISPUTED')"

SQL_CHECKS: Final = {
    "I1": """
    SELECT g.account_id, format('grant %s belongs to no account', g.number) FROM credit_grant AS g
    WHERE g.account_id BETWEEN $1 AND $2 AND NOT EXISTS (SELECT FROM account AS a WHERE a.id = g.account_id)
    """,
    "I3 charges": """
    SELECT coalesce(b.account_id, e.account_id),
           format('block run %s at cost %s refers to entry %s, entry %s charges %s for block run %s of task %s',
                  b.block_run_id, b.cost, b.entry_seq, e.seq, -e.credits, e.block_run_id, e.task_id)
    FROM (SELECT * FROM block_run WHERE account_id BETWEEN $1 AND $2 AND (entry_seq IS NOT NULL OR cost > 0)) AS b
    FULL JOIN (SELECT * FROM entry WHERE account_id BETWEEN $1 AND $2 AND kind = 'CHARGE') AS e
        ON e.account_id = b.account_id AND e.seq = b.entry_seq
    WHERE (b.block_run_id, b.task_id, b.cost) IS DISTINCT FROM (e.block_run_id, e.task_id, -e.credits)
    """,
    "I3 reversals": """
    SELECT coalesce(b.account_id, e.account_id),
           format('block run %s has %s reversed, its entries %s', coalesce(b.block_run_id, e.block_run_id),
                  coalesce(b.reversed, 0), coalesce(e.credits, 0))
    FROM (SELECT * FROM block_run WHERE account_id BETWEEN $1 AND $2 AND reversed > 0) AS b
    FULL JOIN (SELECT account_id, block_run_id, sum(credits) AS credits FROM entry
               WHERE account_id BETWEEN $1 AND $2 AND kind = 'REVERSAL' GROUP BY account_id, block_run_id) AS e
        ON e.account_id = b.account_id AND e.block_run_id = b.block_run_id
    WHERE b.reversed IS DISTINCT FROM e.credits
    """,
    "I3 outcomes": """
    SELECT b.account_id, format('block run %s ended as %s with entry %s, which does not reverse it', b.block_run_id,
                                b.outcome, b.outcome_seq)
    FROM block_run AS b LEFT JOIN entry AS e ON e.account_id = b.account_id AND e.seq = b.outcome_seq
    WHERE b.account_id BETWEEN $1 AND $2 AND b.outcome_seq IS NOT NULL
      AND (e.kind, e.block_run_id) IS DISTINCT FROM ('REVERSAL', b.block_run_id)
    """,
    "I3 operations": """
    SELECT o.account_id, format('operation %s (%s) refers to %s, which does not exist', o.key, o.kind, o.result)
    FROM operation AS o WHERE o.account_id BETWEEN $1 AND $2
      AND (o.result->>'seq' IS NOT NULL AND NOT EXISTS (
               SELECT FROM entry AS e WHERE e.account_id = o.account_id
               AND e.seq = CASE WHEN o.result->>'seq' ~ '^[0-9]{1,18}$' THEN (o.result->>'seq')::bigint END)
           OR o.result->>'grant' IS NOT NULL AND NOT EXISTS (
               SELECT FROM credit_grant AS g WHERE g.account_id = o.account_id
               AND g.number = CASE WHEN o.result->>'grant' ~ '^[0-9]{1,9}$' THEN (o.result->>'grant')::int END)
           OR o.result->>'topUp' IS NOT NULL AND NOT EXISTS (
               SELECT FROM top_up AS p WHERE p.account_id = o.account_id AND p.id = o.result->>'topUp')
           OR o.result->>'refund' IS NOT NULL AND NOT EXISTS (
               SELECT FROM top_up_refund AS r WHERE r.account_id = o.account_id AND r.id = o.result->>'refund'))
    """,
    "I4 accounts": """
    SELECT coalesce(a.id, h.account_id),
           format('held %s, %s open holds, the last hold %s; found %s, %s and %s', a.held, a.open_holds, a.hold_count,
                  coalesce(h.held, 0), coalesce(h.open, 0), coalesce(h.last, 0))
    FROM (SELECT * FROM account WHERE id BETWEEN $1 AND $2) AS a
    FULL JOIN (SELECT account_id, coalesce(sum(remaining) FILTER (WHERE status = 'OPEN'), 0) AS held,
                      count(*) FILTER (WHERE status = 'OPEN') AS open, max(number) AS last
               FROM hold WHERE account_id BETWEEN $1 AND $2 GROUP BY account_id) AS h
        ON h.account_id = a.id
    WHERE (a.held, a.open_holds, a.hold_count) IS DISTINCT FROM
          (coalesce(h.held, 0), coalesce(h.open, 0), coalesce(h.last, 0))
    """,
    "I4 grants": f"""
    SELECT coalesce(g.account_id, c.account_id),
           format('grant %s has %s claimed, open holds claim %s', coalesce(g.number, c.number),
                  coalesce(g.claimed, 0), coalesce(c.claimed, 0))
    FROM (SELECT * FROM credit_grant WHERE account_id BETWEEN $1 AND $2 AND claimed > 0) AS g
    FULL JOIN (SELECT h.account_id, (c->0)::numeric AS number, sum((c->1)::numeric) AS claimed
               FROM hold AS h CROSS JOIN LATERAL {_CLAIMS} AS c
               WHERE h.account_id BETWEEN $1 AND $2 AND h.status = 'OPEN' GROUP BY 1, 2) AS c
        ON c.account_id = g.account_id AND c.number = g.number
    WHERE g.claimed IS DISTINCT FROM c.claimed
    """,  # noqa: S608  our own constant
    "I4 holds": f"""
    SELECT coalesce(h.account_id, e.account_id), format('hold %s %s', coalesce(h.number, e.hold_number), v.message)
    FROM (SELECT * FROM hold WHERE account_id BETWEEN $1 AND $2) AS h
    FULL JOIN (SELECT account_id, hold_number, coalesce(-sum(credits) FILTER (WHERE kind = 'CHARGE'), 0) AS charges
               FROM entry WHERE account_id BETWEEN $1 AND $2 AND hold_number IS NOT NULL GROUP BY account_id,
               hold_number) AS e
        ON e.account_id = h.account_id AND e.hold_number = h.number
    LEFT JOIN (SELECT account_id, parent_budget, sum(captured + remaining + allocated) AS allocated FROM hold
               WHERE account_id BETWEEN $1 AND $2 AND parent_budget IS NOT NULL GROUP BY account_id, parent_budget) AS i
        ON i.account_id = h.account_id AND i.parent_budget = h.number
    LEFT JOIN (SELECT * FROM block_run WHERE account_id BETWEEN $1 AND $2) AS b
        ON b.account_id = h.account_id AND b.block_run_id = h.block_run_id
    LEFT JOIN (SELECT * FROM task WHERE account_id BETWEEN $1 AND $2) AS t
        ON t.account_id = h.account_id AND t.task_id = h.task_id
    CROSS JOIN LATERAL (SELECT coalesce(sum((c->1)::numeric), 0) AS claimed FROM {_CLAIMS} AS c) AS c
    CROSS JOIN LATERAL (VALUES
        (h.number IS NULL, 'has entries but does not exist'),
        (h.number IS NOT NULL AND t.task_id IS NULL, format('is for task %s, which does not exist', h.task_id)),
        (h.credits <> h.captured + h.released + h.remaining + h.allocated,
         format('was for %s: captured %s, released %s, remaining %s, allocated %s',
                h.credits, h.captured, h.released, h.remaining, h.allocated)),
        (h.captured <> coalesce(e.charges, 0),
         format('captured %s, its charges %s', h.captured, coalesce(e.charges, 0))),
        (h.status = 'CAPTURED' AND h.block_run_id IS NOT NULL AND h.captured IS DISTINCT FROM b.cost,
         format('captured %s, block run %s cost %s', h.captured, h.block_run_id, coalesce(b.cost::text, 'unknown'))),
        (h.status = 'OPEN' AND b.block_run_id IS NOT NULL,
         format('is open, but block run %s was charged', h.block_run_id)),
        (h.remaining <> c.claimed, format('has %s remaining and claims %s', h.remaining, c.claimed)),
        (h.status <> 'OPEN' AND (h.remaining <> 0 OR h.claims <> '[]'), format('is %s and still claims', h.status)),
        (h.allocated < i.allocated, format('allocated %s, the holds drawn from it have %s', h.allocated, i.allocated))
    ) AS v(is_violated, message) WHERE v.is_violated
    """,  # noqa: S608  our own constant
    "I4 budgets": """
    SELECT t.account_id, format('task %s draws on budget %s, which does not exist', t.task_id, t.budget_hold)
    FROM task AS t WHERE t.account_id BETWEEN $1 AND $2 AND t.budget_hold IS NOT NULL AND NOT EXISTS (
        SELECT FROM hold AS h WHERE h.account_id = t.account_id AND h.number = t.budget_hold AND h.block_run_id IS NULL)
    """,
    "I5 entries": """
    SELECT coalesce(t.account_id, e.account_id),
           format('task %s charged %s and reversed %s, its entries %s and %s', coalesce(t.task_id, e.task_id),
                  t.charged, t.reversed, coalesce(e.charged, 0), coalesce(e.reversed, 0))
    FROM (SELECT * FROM task WHERE account_id BETWEEN $1 AND $2) AS t
    FULL JOIN (SELECT account_id, task_id, coalesce(-sum(credits) FILTER (WHERE kind = 'CHARGE'), 0) AS charged,
                      coalesce(sum(credits) FILTER (WHERE kind = 'REVERSAL'), 0) AS reversed
               FROM entry WHERE account_id BETWEEN $1 AND $2 AND kind IN ('CHARGE', 'REVERSAL')
               GROUP BY account_id, task_id) AS e
        ON e.account_id = t.account_id AND e.task_id = t.task_id
    WHERE (t.charged, t.reversed) IS DISTINCT FROM (coalesce(e.charged, 0), coalesce(e.reversed, 0))
    """,
    "I5 block runs": """
    SELECT coalesce(t.account_id, b.account_id),
           format('task %s has %s steps, charged %s and reversed %s; its %s block runs up to %s cost %s and %s',
                  coalesce(t.task_id, b.task_id), t.steps, t.charged, t.reversed, coalesce(b.steps, 0),
                  coalesce(b.last, 0), coalesce(b.cost, 0), coalesce(b.reversed, 0))
    FROM (SELECT * FROM task WHERE account_id BETWEEN $1 AND $2) AS t
    FULL JOIN (SELECT account_id, task_id, count(*) AS steps, max(position) AS last, sum(cost) AS cost,
                      sum(reversed) AS reversed
               FROM block_run WHERE account_id BETWEEN $1 AND $2 GROUP BY account_id, task_id) AS b
        ON b.account_id = t.account_id AND b.task_id = t.task_id
    WHERE (t.steps, t.steps, t.charged, t.reversed) IS DISTINCT FROM
          (coalesce(b.steps, 0), coalesce(b.last, 0), coalesce(b.cost, 0), coalesce(b.reversed, 0))
    """,
    "I4 frozen": """
    SELECT coalesce(a.id, d.account_id),
           format('frozen %s, open disputes %s', coalesce(a.frozen, 0), coalesce(d.credits, 0))
    FROM (SELECT * FROM account WHERE id BETWEEN $1 AND $2 AND frozen <> 0) AS a
    FULL JOIN (SELECT account_id, sum(frozen_credits) AS credits FROM dispute
               WHERE account_id BETWEEN $1 AND $2 AND frozen_credits > 0 GROUP BY account_id) AS d
        ON d.account_id = a.id
    WHERE coalesce(a.frozen, 0) <> coalesce(d.credits, 0)
    """,
    "I7 entries": f"""
    SELECT coalesce(p.account_id, e.account_id),
           format('top-up %s over %s is %s, its entries %s', coalesce(p.id, e.top_up_id), p.credits,
                  coalesce(p.status, 'unknown'), coalesce(e.bought, 0))
    FROM (SELECT * FROM top_up WHERE account_id BETWEEN $1 AND $2) AS p
    FULL JOIN {_OF_TOP_UPS} AS e ON e.account_id = p.account_id AND e.top_up_id = p.id
    WHERE coalesce(e.bought, 0) IS DISTINCT FROM CASE WHEN {_PAID} THEN p.credits WHEN p.id IS NOT NULL THEN 0 END
    """,  # noqa: S608  our own constants
    "I7 given back": f"""
    SELECT p.account_id, format('top-up %s %s', p.id, v.message)
    FROM top_up AS p
    LEFT JOIN {_OF_TOP_UPS} AS e ON e.account_id = p.account_id AND e.top_up_id = p.id
    LEFT JOIN (SELECT account_id, top_up_id, sum(credits) AS credits, sum(amount_minor) AS minor,
                      sum(bonus_credits) AS bonus FROM top_up_refund
               WHERE account_id BETWEEN $1 AND $2 AND status <> 'FAILED' GROUP BY account_id, top_up_id) AS r
        ON r.account_id = p.account_id AND r.top_up_id = p.id
    LEFT JOIN (SELECT account_id, top_up_id, coalesce(sum(credits) FILTER (WHERE status = 'LOST'), 0) AS lost,
                      sum(bonus_credits) AS bonus, bool_or(status = 'OPEN') AS open FROM dispute
               WHERE account_id BETWEEN $1 AND $2 GROUP BY account_id, top_up_id) AS d
        ON d.account_id = p.account_id AND d.top_up_id = p.id
    CROSS JOIN LATERAL (VALUES
        (coalesce(e.returned, 0) <> p.refunded_credits + p.clawed_back_credits,
         format('has %s refunded and %s clawed back, its entries %s', p.refunded_credits, p.clawed_back_credits,
                coalesce(e.returned, 0))),
        (p.refunded_credits <> coalesce(r.credits, 0) OR p.refunded_minor <> coalesce(r.minor, 0),
         format('has %s refunded for %s, its refunds %s for %s', p.refunded_credits, p.refunded_minor,
                coalesce(r.credits, 0), coalesce(r.minor, 0))),
        (p.clawed_back_credits <> coalesce(d.lost, 0),
         format('has %s clawed back, its lost disputes %s', p.clawed_back_credits, coalesce(d.lost, 0))),
        (coalesce(e.bonus, 0) <> CASE WHEN {_PAID} THEN p.bonus_credits ELSE 0 END
                                 - coalesce(r.bonus, 0) - coalesce(d.bonus, 0),
         format('has a bonus of %s, %s of it taken back, its entries %s', p.bonus_credits,
                coalesce(r.bonus, 0) + coalesce(d.bonus, 0), coalesce(e.bonus, 0))),
        ({_PAID} AND p.status <> CASE WHEN p.refunded_credits + p.clawed_back_credits = p.credits THEN 'REFUNDED'
                                      WHEN d.open THEN 'DISPUTED' ELSE 'PAID' END,
         format('is %s with %s of %s given back', p.status, p.refunded_credits + p.clawed_back_credits, p.credits))
    ) AS v(is_violated, message) WHERE p.account_id BETWEEN $1 AND $2 AND v.is_violated
    """,  # noqa: S608  our own constants
    "I7 refunds": """
    SELECT g.account_id, format('%s belongs to top-up %s, which does not exist', g.name, g.top_up_id)
    FROM (SELECT account_id, top_up_id, format('refund %s', id) AS name FROM top_up_refund
          UNION ALL SELECT account_id, top_up_id, format('dispute %s', dispute_ref) AS name FROM dispute) AS g
    WHERE g.account_id BETWEEN $1 AND $2 AND NOT EXISTS (
        SELECT FROM top_up AS p WHERE p.account_id = g.account_id AND p.id = g.top_up_id)
    """,
    "I8 debt": """
    SELECT a.id, format('owes %s with %s available and %s in grants that pay debt', a.owed,
                        a.posted - a.held - a.frozen, g.free)
    FROM account AS a
    CROSS JOIN LATERAL (SELECT sum(remaining - claimed) AS free FROM credit_grant AS g
                        WHERE g.account_id = a.id AND g.is_open AND g.is_started AND g.pays_debt) AS g
    WHERE a.id BETWEEN $1 AND $2 AND a.owed > 0 AND a.posted - a.held - a.frozen > 0 AND g.free > 0
    """,
}
