"""A stored run summed up and shown: which values, which columns, which rows, as text for people and programs."""
