"""One module a stage, named as in `kar.flow`. No stage imports another."""
