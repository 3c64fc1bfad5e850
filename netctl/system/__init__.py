"""System calls that Python has no name for; the ground under engine, wg and the mediator's shell."""
