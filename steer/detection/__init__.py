"""Stage `detection`: every detector's score for every expert, in one table."""
