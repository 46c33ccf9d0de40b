"""What files say, checked: configurations, annotations, tables, conversations, folders of images, tar shards."""
