"""The plugins that come with cl_ml_tools. They enter as any other plugin does: by entry points."""
