from django.contrib import admin
from django.urls import path
from polls import views

urlpatterns = [path("admin/", admin.site.urls), path("vote/<int:question_id>", views.vote), path("ask", views.ask)]
