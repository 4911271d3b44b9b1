"""Everything of a comparison that people look at: the report, its plots, the table.

results.json → reading → words, plots → page, table, notebook
"""

from normwise.compare.report.page import render_report, write_report

__all__ = ["render_report", "write_report"]
