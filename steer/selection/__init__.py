"""Choosing interventions on `val`: layer and position, then strength and scope, then the arms."""
