"""The edits an intervention is made of, a module for each part of the model that they act on."""
