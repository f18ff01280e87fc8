"""The report of a ``bench`` run: charts, a contact sheet and a page, drawn from results alone."""
