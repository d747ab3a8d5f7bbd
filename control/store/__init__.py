"""The database: connections, transactions, tables, revisions, rights."""
