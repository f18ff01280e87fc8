"""RMSNorm and rotary embedding of queries and keys, from the packed projection into attention's layout."""
