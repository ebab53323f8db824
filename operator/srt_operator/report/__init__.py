"""The report of a run: figures and the page around them."""
