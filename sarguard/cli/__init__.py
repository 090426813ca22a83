"""The command line: `sarguard demo, ask, evaluate, calibrate, doctor`."""
