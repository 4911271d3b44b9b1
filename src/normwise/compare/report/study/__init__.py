"""What people look at of several comparisons together: a table, plots, one page.

results.json of a study → reading → words, plots → page, table
"""
