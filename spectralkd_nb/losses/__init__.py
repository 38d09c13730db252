"""What a student can be asked to match: one file a family of losses, each a pure function of student and teacher."""
