"""What recipes on series share: labelled series, networks of windows, alarms and their figures."""
