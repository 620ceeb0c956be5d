"""Records of runs to tables, figures, results.json and report.md."""
