"""What is done with a run that is there: plan, keep, trace, forget, export, verify, clean."""
