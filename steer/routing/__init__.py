"""Which experts a contrast tells apart: counts out of activation files, statistics over prompts."""
