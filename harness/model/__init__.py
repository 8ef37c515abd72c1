"""The reference model: what a driver must report, judged from ground truth and never by the machine that ran it."""
