-- A school: quoted names, whole numbers as ids, a table of statuses, local times of India without a
-- zone, and one table of events, of which only some are outcomes.
create schema admissions;
create table admissions."Status" ("StatusId" integer primary key, "StatusName" text not null);
insert into admissions."Status" values
    (1, 'Enquiry'), (2, 'Counselling'), (3, 'Campus visit'), (4, 'Not reachable');
create table admissions."Prospect" (
    "ProspectId" bigint generated always as identity primary key,
    "StudentName" varchar(120),
    "ParentMobile" varchar(20),
    "EnquiryDate" timestamp not null,
    "StatusId" integer references admissions."Status",
    "EntranceScore" integer,
    "CounsellorCalls" integer,
    "CourseCode" varchar(12),
    "IsHosteller" boolean,
    "ScholarshipRequested" boolean,
    "ModifiedOn" timestamp
);
create table admissions.events (
    id bigserial primary key,
    "ProspectId" bigint not null,
    event_type text not null,
    happened_at timestamp not null
);

select setseed(0.29);
insert into admissions."Prospect" ("StudentName", "ParentMobile", "EnquiryDate", "StatusId",
    "EntranceScore", "CounsellorCalls", "CourseCode", "IsHosteller", "ScholarshipRequested",
    "ModifiedOn")
select 'Student ' || n, '+91 00000 ' || lpad(n::text, 5, '0'),
       now() at time zone 'Asia/Kolkata' - (2401 - n) * interval '4 hours',
       1 + floor(4 * random()),
       case when random() < 0.8 then 200 + floor(800 * random()) end, floor(9 * random()),
       (array['BTECH-CS', 'BTECH-ME', 'BBA', 'MBA'])[1 + floor(4 * random())],
       random() < 0.4, random() < 0.3, now() at time zone 'Asia/Kolkata'
from generate_series(1, 2400) as n;
insert into admissions.events ("ProspectId", event_type, happened_at)
select "ProspectId", (array['BROCHURE_SENT', 'VISIT'])[1 + floor(2 * random())],
       "EnquiryDate" + random() * interval '30 days'
from admissions."Prospect" where random() < 0.6;
insert into admissions.events ("ProspectId", event_type, happened_at)
select "ProspectId", 'APPLICATION_SUBMITTED', "EnquiryDate" + (1 + 40 * random()) * interval '1 day'
from admissions."Prospect"
where random() < 0.02 + 0.05 * "CounsellorCalls" * (coalesce("EntranceScore", 500) / 1000.0);
delete from admissions.events where happened_at > now() at time zone 'Asia/Kolkata';
