"""How a Dag runs: parts, operators, runners, commits and the ledger."""
