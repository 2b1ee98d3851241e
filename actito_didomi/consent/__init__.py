"""The meaning of consent: records, choices, mappings, conflicts, coalescing and the ledger."""
